"""Data for the papers: real sets that come with scikit-learn, and generated sets.

The real sets are read from scikit-learn's files without importing it: 0.1 s instead of 1 s. Everything that is random
takes a NumPy generator. All arrays are float64, labels are int64.
"""

import gzip
import importlib.util
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.random import Generator


class Dataset(NamedTuple):
    """Features as rows, and one target a row: a class (int64) or a number (float64)."""

    features: Float[np.ndarray, "n d"]
    targets: Int[np.ndarray, " n"] | Float[np.ndarray, " n"]


@cache
def digits() -> Dataset:
    """1797 handwritten digits of 8 x 8 pixels, classes 0 to 9; intensities from 0 to 1, rows are flattened images."""
    table = _table("digits.csv.gz")
    return _dataset(table[:, :-1] / 16, table[:, -1].astype(np.int64))


@cache
def breast_cancer() -> Dataset:
    """569 tumours, 30 measurements in their own units, classes 0 (malignant) and 1 (benign)."""
    table = _table("breast_cancer.csv", skip=1)
    return _dataset(table[:, :-1], table[:, -1].astype(np.int64))


@cache
def wine() -> Dataset:
    """178 wines, 13 chemical measurements in their own units, classes 0 to 2 (cultivars)."""
    table = _table("wine_data.csv", skip=1)
    return _dataset(table[:, :-1], table[:, -1].astype(np.int64))


@cache
def diabetes() -> Dataset:
    """442 patients, 10 measurements in their own units; the target is the progression of the disease in a year."""
    return _dataset(_table("diabetes_data_raw.csv.gz", delimiter=None), _table("diabetes_target.csv.gz"))


@cache
def sample_image(name: str) -> Float[np.ndarray, "height width 3"]:
    """A photograph, 427 x 640 pixels, red, green and blue from 0 to 1: ``"china"`` (a temple) or ``"flower"``."""
    if name not in ("china", "flower"):
        raise ValueError(f"name={name!r} must be 'china' or 'flower'")
    from PIL import Image

    with Image.open(_sklearn_datasets() / "images" / f"{name}.jpg") as image:
        return _frozen(np.asarray(image, dtype=np.float64) / 255)


def standardize(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Columns shifted to mean 0 and scaled to variance 1; constant columns become 0."""
    spread = features.std(axis=0)
    return (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1)


def split(dataset: Dataset, rng: Generator, test: float = 0.25) -> tuple[Dataset, Dataset]:
    """A random (train, test) split with the share ``test`` of the rows, rounded, in the second part.

    Raises ``ValueError`` unless both parts get at least one row.
    """
    n = len(dataset.targets)
    n_test = round(test * n)
    if not 0 < n_test < n:
        raise ValueError(f"test={test} leaves one part of {n} rows empty")
    order = rng.permutation(n)
    return tuple(Dataset(dataset.features[rows], dataset.targets[rows]) for rows in (order[n_test:], order[:n_test]))


def gaussian_mixture(
    rng: Generator,
    n: int,
    means: Float[np.ndarray, "k d"],
    std: float = 1.0,
    weights: Float[np.ndarray, " k"] | None = None,
) -> Dataset:
    """``n`` points of an isotropic Gaussian mixture and the component of each; ``weights`` default to equal."""
    means = np.asarray(means, dtype=np.float64)
    labels = rng.choice(len(means), size=_count("n", n), p=weights)
    return Dataset(means[labels] + std * rng.standard_normal((n, means.shape[1])), labels)


def two_moons(rng: Generator, n: int, noise: float = 0.1) -> Dataset:
    """``n`` points on two interleaved half circles of radius 1 with Gaussian noise; classes 0 and 1 alternate."""
    labels = np.arange(_count("n", n)) % 2
    angle = rng.uniform(0, np.pi, n)
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    lower = np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], axis=1)
    return Dataset(np.where(labels[:, None] == 0, upper, lower) + noise * rng.standard_normal((n, 2)), labels)


def spirals(rng: Generator, n: int, classes: int = 2, turns: float = 1.0, noise: float = 0.02) -> Dataset:
    """``n`` points on ``classes`` spiral arms that turn ``turns`` times within the unit disc, with Gaussian noise."""
    labels = np.arange(_count("n", n)) % _count("classes", classes)
    radius = rng.uniform(0.1, 1, n)
    angle = 2 * np.pi * (turns * radius + labels / classes)
    points = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return Dataset(points + noise * rng.standard_normal((n, 2)), labels)


def grid_density(
    size: int, centres: Float[np.ndarray, "k dim"], std: float, floor: float = 1e-3
) -> tuple[Float[np.ndarray, "cells dim"], Float[np.ndarray, " cells"]]:
    """A sum of Gaussian bumps as a histogram on a regular grid of ``size`` cells a side in the unit interval or square.

    Returns the centres of the cells and their masses, which are positive and sum to 1: ``floor`` is the share of the
    mass that is spread evenly. Raises ``ValueError`` if the centres are not in one or two dimensions.
    """
    centres = np.atleast_2d(np.asarray(centres, dtype=np.float64))
    dim = centres.shape[1]
    if dim not in (1, 2):
        raise ValueError(f"centres has {dim} columns; densities are drawn in 1 or 2 dimensions")
    ticks = (np.arange(_count("size", size)) + 0.5) / size
    points = np.stack([axis.ravel() for axis in np.meshgrid(*[ticks] * dim, indexing="ij")], axis=1)
    squared = ((points[:, None, :] - centres[None, :, :]) ** 2).sum(axis=2)
    density = np.exp(-squared / (2 * std**2)).sum(axis=1)
    return points, (1 - floor) * density / density.sum() + floor / len(points)


def image_histogram(
    image: Float[np.ndarray, "height width"],
) -> tuple[Float[np.ndarray, "k 2"], Float[np.ndarray, " k"]]:
    """A grey image as a histogram: the places (x to the right, y upwards, in pixels) of the ``k`` pixels that are not
    black, and their shares of the brightness, which sum to 1.

    Raises ``ValueError`` if the image is not a matrix, has a negative or non-finite pixel, or is all black.
    """
    image = np.asarray(image, dtype=np.float64)
    if image.ndim != 2 or not np.isfinite(image).all() or image.min() < 0 or image.max() == 0:
        raise ValueError(f"image of shape {image.shape} must be a matrix of finite, non-negative values, not all 0")
    rows, columns = np.nonzero(image)
    points = np.stack([columns, image.shape[0] - 1 - rows], axis=1).astype(np.float64)
    return points, image[rows, columns] / image.sum()


def _count(name: str, value: int) -> int:
    if value < 1:
        raise ValueError(f"{name}={value} must be at least 1")
    return value


def _sklearn_datasets() -> Path:
    # find_spec locates a top-level package without running it.
    (package,) = importlib.util.find_spec("sklearn").submodule_search_locations
    return Path(package) / "datasets"


def _table(name: str, skip: int = 0, delimiter: str | None = ",") -> np.ndarray:
    path = _sklearn_datasets() / "data" / name
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        return np.loadtxt(file, delimiter=delimiter, skiprows=skip)


def _dataset(features: np.ndarray, targets: np.ndarray) -> Dataset:
    return Dataset(_frozen(features), _frozen(targets))


def _frozen(array: np.ndarray) -> np.ndarray:
    # Cached arrays are shared by all callers: writing to one is an error, not a surprise elsewhere.
    array.flags.writeable = False
    return array
