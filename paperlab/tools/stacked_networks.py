"""Networks of dense layers as flat vectors of weights, several side by side: random weights, and the layers in them.

With a leading axis, k networks train at once, each on its own data, for little more than the time of one.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from torch import Tensor

Array = TypeVar("Array", np.ndarray, "Tensor")


def random_weights(widths: tuple[int, ...], k: int, rng: np.random.Generator) -> Float[np.ndarray, "k d"]:
    """Weights of ``k`` networks with layers of these widths, inputs and outputs included.

    Uniform up to one over the root of the number of inputs, matrices and biases alike, as torch's own layers.
    """
    sizes = [(n, n_in) for n_in, n_out in pairwise(widths) for n in (n_in * n_out, n_out)]
    return np.concatenate([rng.uniform(-1, 1, (k, n)) * n_in**-0.5 for n, n_in in sizes], axis=1)


def split_layers(w: Array, widths: tuple[int, ...]) -> list[tuple[Array, Array]]:
    """Matrices ``(..., out, in)`` and biases ``(..., 1, out)`` of each layer from weights ``(..., d)``.

    Each matrix is stored row by row, followed by its biases, as in ``flat_parameters``. NumPy arrays and tensors; the
    parts of a tensor can be differentiated. Raises ``ValueError`` if ``w`` has another length than the widths ask for.
    """
    sizes = [n for n_in, n_out in pairwise(widths) for n in (n_in * n_out, n_out)]
    if w.shape[-1] != sum(sizes):
        raise ValueError(f"w has {w.shape[-1]} weights; widths {widths} need {sum(sizes)}")
    numpy = isinstance(w, np.ndarray)
    parts = np.split(w, np.cumsum(sizes)[:-1], axis=-1) if numpy else w.split(sizes, dim=-1)
    return [
        (W.reshape(*w.shape[:-1], n_out, n_in), b[..., None, :])
        for W, b, (n_in, n_out) in zip(parts[::2], parts[1::2], pairwise(widths), strict=True)
    ]
