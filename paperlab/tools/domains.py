"""Domains built from images: the same pictures rotated, shifted, with low contrast or with noise.

A model that was trained on the images as they are meets these as unseen domains. Images are NumPy arrays
``(..., height, width)``, intensities usually from 0 to 1; what comes in from outside the picture is 0.
"""

import math

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from paperlab.arguments import finite_array, positive, whole_number

_SIDE = 8  # of the digits


def rotate(images: Float[np.ndarray, "... h w"], degrees: float) -> Float[np.ndarray, "... h w"]:
    """Turned anticlockwise about the centre of the picture, with bilinear interpolation.

    Exact for multiples of 90 degrees of square images, up to rounding. Raises ``ValueError`` for fewer than two axes,
    or numbers that are not finite.
    """
    if not math.isfinite(degrees):
        raise ValueError(f"degrees={degrees} must be finite")
    return ndimage.rotate(_images(images), degrees, axes=(-2, -1), reshape=False, order=1, mode="grid-constant")


def shift(images: Float[np.ndarray, "... h w"], down: int = 0, right: int = 0) -> Float[np.ndarray, "... h w"]:
    """Moved by whole pixels, up and to the left where they are negative.

    Raises ``ValueError`` unless the move is shorter than the picture.
    """
    images = _images(images)
    height, width = images.shape[-2:]
    move = whole_number("down", down, 1 - height, height - 1), whole_number("right", right, 1 - width, width - 1)
    return ndimage.shift(images, (0,) * (images.ndim - 2) + move, order=0, mode="grid-constant")


def low_contrast(images: Float[np.ndarray, "... h w"], factor: float, level: float = 0.5) -> np.ndarray:
    """All intensities drawn towards ``level``: means as well as differences keep the share ``factor``.

    Raises ``ValueError`` unless ``factor > 0`` and ``level`` is finite.
    """
    if not math.isfinite(level):
        raise ValueError(f"level={level} must be finite")
    # level + factor (x - level)
    return level + positive("factor", factor) * (_images(images) - level)


def noisy(images: Float[np.ndarray, "... h w"], std: float, rng: np.random.Generator) -> np.ndarray:
    """With independent Gaussian noise of standard deviation ``std`` in each pixel; not clipped.

    Raises ``ValueError`` unless ``std > 0``.
    """
    images = _images(images)
    return images + positive("std", std) * rng.normal(size=images.shape)


def unseen_domains(
    rows: Float[np.ndarray, "... 64"], rng: np.random.Generator, angle: float = 20.0
) -> dict[str, Float[np.ndarray, "... 64"]]:
    """The digits, flattened as in ``data.digits()``, in five domains by name: turned by ``angle`` degrees to the left
    and to the right, at 40 percent of the contrast, one pixel to the right, with noise of standard deviation 0.3.

    Raises ``ValueError`` if rows do not have 64 entries.
    """
    rows = np.asarray(rows, dtype=np.float64)
    if rows.ndim == 0 or rows.shape[-1] != _SIDE**2:
        raise ValueError(f"rows has shape {rows.shape}; {_SIDE**2} pixels a row are needed")
    images = rows.reshape(*rows.shape[:-1], _SIDE, _SIDE)
    domains = {
        "turned left": rotate(images, angle),
        "turned right": rotate(images, -angle),
        "low contrast": low_contrast(images, 0.4),
        "shifted": shift(images, right=1),
        "noisy": noisy(images, 0.3, rng),
    }
    return {name: each.reshape(rows.shape) for name, each in domains.items()}


def _images(images) -> np.ndarray:
    if np.ndim(images) < 2:
        raise ValueError(f"images has shape {np.shape(images)}; at least two axes, height and width, are needed")
    return finite_array("images", images, ndim=np.ndim(images))
