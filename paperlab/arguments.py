"""Checks at the public door: bad input is a ``ValueError`` that names the argument and the value."""

import math

import numpy as np
from jaxtyping import Float


def finite_array(name: str, value, ndim: int | tuple[int, ...]) -> np.ndarray:
    """``value`` as a float64 array that is not empty, has ``ndim`` axes (or one of them) and only finite entries."""
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name}={value!r} is not an array of numbers") from None
    allowed = (ndim,) if isinstance(ndim, int) else ndim
    if array.ndim not in allowed:
        raise ValueError(f"{name} has shape {array.shape}; {' or '.join(map(str, allowed))} axes are needed")
    if array.size == 0:
        raise ValueError(f"{name} of shape {array.shape} is empty")
    if not np.isfinite(array).all():
        place = tuple(int(index) for index in np.argwhere(~np.isfinite(array))[0])
        raise ValueError(f"{name}{list(place)}={array[place]} is not finite")
    return array


def cost_matrix(name: str, value, shape: tuple[int, int] | None = None) -> Float[np.ndarray, "n m"]:
    """``value`` as a finite float64 matrix, of this shape if one is given."""
    array = finite_array(name, value, ndim=2)
    if shape is not None and array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}; {shape} is needed")
    return array


def histogram(name: str, value, n: int) -> Float[np.ndarray, " n"]:
    """``value`` as ``n`` positive masses that sum to 1; rounding errors below 1e-6 are divided out."""
    array = finite_array(name, value, ndim=1)
    if len(array) != n:
        raise ValueError(f"{name} has {len(array)} masses for {n} points")
    if array.min() <= 0:
        index = int(array.argmin())
        raise ValueError(f"{name}[{index}]={array[index]:g} must be positive; leave out points without mass")
    if abs(array.sum() - 1) > 1e-6:
        raise ValueError(f"{name} sums to {array.sum():g}; masses must sum to 1, so divide them by their sum")
    return array / array.sum()


def positive(name: str, value: float) -> float:
    """``value`` as a positive finite float."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name}={value} must be positive and finite")
    return float(value)


def whole_number(name: str, value: int, smallest: int, largest: int | None = None) -> int:
    """``value`` as an int of at least ``smallest`` and, if given, at most ``largest``."""
    if int(value) != value or value < smallest or (largest is not None and value > largest):
        raise ValueError(
            f"{name}={value} must be a whole number of at least {smallest}"
            + (f" and at most {largest}" if largest is not None else "")
        )
    return int(value)
