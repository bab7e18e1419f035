"""How far features and a classifier are from neural collapse: NC1 to NC4 of Papyan, Han and Donoho (2020).

Rows are samples: features ``(N, d)``, labels ``(N,)`` with values 0 to K - 1, classifier ``W`` ``(K, d)`` and ``b``
``(K,)``. At collapse all four numbers are 0: features coincide with their class mean (NC1), the centred means form a
simplex equiangular tight frame (NC2), the classifier equals them up to scale (NC3), and it decides by the nearest class
mean (NC4). Papers that write features as columns convert once, where they call this module.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.random import Generator

from paperlab.arguments import finite_array, whole_number


@dataclass(frozen=True, eq=False)
class ClassStatistics:
    """Class means ``(K, d)``, their mean ``(d,)``, and the covariances within and between classes, ``(d, d)``.

    Classes count equally: ``global_mean`` is the mean of the class means, and for classes of different sizes it is not
    the mean of the samples.
    """

    means: Float[np.ndarray, "K d"]
    global_mean: Float[np.ndarray, " d"]
    within: Float[np.ndarray, "d d"]
    between: Float[np.ndarray, "d d"]


def class_statistics(features: Float[np.ndarray, "N d"], labels: Int[np.ndarray, " N"]) -> ClassStatistics:
    """Means and covariances of the classes. Raises ``ValueError`` for bad shapes, or a label that has no sample."""
    features, labels = finite_array("features", features, ndim=2), np.asarray(labels)
    if labels.shape != (len(features),) or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise ValueError(f"labels of shape {labels.shape}, {labels.dtype}: {len(features)} integers from 0 are needed")
    counts = np.bincount(labels)
    if len(counts) < 2 or counts.min() == 0:
        raise ValueError(
            f"labels: classes have {counts.tolist()} samples; at least two classes, none empty, are needed"
        )
    # Each class has weight 1 / K, shared equally by its samples.
    weights = np.eye(len(counts))[labels] / counts
    means = weights.T @ features
    centred = features - means[labels]
    within = (centred * weights.sum(axis=1, keepdims=True)).T @ centred / len(counts)
    spread = means - means.mean(axis=0)
    return ClassStatistics(means, means.mean(axis=0), within, spread.T @ spread / len(counts))


def nc1(features: Float[np.ndarray, "N d"], labels: Int[np.ndarray, " N"], variant: str = "trace") -> float:
    """Variability within classes against that between them.

    ``"trace"``: ``tr(within) / tr(between)``, the smooth form that theorems use. ``"pinv"``:
    ``tr(within between^+) / K``, with the pseudo-inverse on the K - 1 directions that the means span.
    """
    statistics = class_statistics(features, labels)
    if variant == "trace":
        return float(np.trace(statistics.within) / np.trace(statistics.between))
    if variant != "pinv":
        raise ValueError(f"variant={variant!r} must be 'trace' or 'pinv'")
    n_classes = len(statistics.means)
    values, vectors = np.linalg.eigh(statistics.between)
    # The other eigenvalues are rounding errors, whose inverses would be all that one sees.
    rank = min(n_classes - 1, len(values))
    values, vectors = values[-rank:], vectors[:, -rank:]
    return float(np.einsum("ik,ij,jk,k->", vectors, statistics.within, vectors, 1 / values) / n_classes)


def nc2(means: Float[np.ndarray, "K d"]) -> tuple[float, float, float]:
    """How far the centred means are from a simplex frame: spread of their lengths (standard deviation over mean),
    mean error of their cosines against ``-1 / (K - 1)``, and the distance of their Gram matrix, both at norm 1.
    """
    centred = _centred("means", means)
    n_classes = len(centred)
    lengths = np.linalg.norm(centred, axis=1)
    if lengths.min() == 0:
        raise ValueError("means: one of them is the global mean, its direction is not defined")
    gram = centred @ centred.T
    cosines = (gram / np.outer(lengths, lengths))[~np.eye(n_classes, dtype=bool)]
    frame = (np.eye(n_classes) - 1 / n_classes) / np.sqrt(n_classes - 1)
    return (
        float(lengths.std() / lengths.mean()),
        float(np.abs(cosines + 1 / (n_classes - 1)).mean()),
        float(np.linalg.norm(gram / np.linalg.norm(gram) - frame)),
    )


def nc3(W: Float[np.ndarray, "K d"], means: Float[np.ndarray, "K d"]) -> float:
    """Distance of the centred classifier rows from the centred means, both scaled to norm 1."""
    rows, centred = _centred("W", W), _centred("means", means)
    if rows.shape != centred.shape:
        raise ValueError(f"W has shape {rows.shape}, means have {centred.shape}: they must agree")
    return float(np.linalg.norm(rows / np.linalg.norm(rows) - centred / np.linalg.norm(centred)))


def nc4(
    features: Float[np.ndarray, "N d"],
    labels: Int[np.ndarray, " N"],
    W: Float[np.ndarray, "K d"],
    b: Float[np.ndarray, " K"] | None = None,
) -> float:
    """The share of samples on which the classifier and the nearest class mean disagree; no bias by default."""
    means = class_statistics(features, labels).means
    by_classifier = (features @ np.asarray(W).T + (0 if b is None else b)).argmax(axis=1)
    by_mean = ((np.asarray(features)[:, None, :] - means[None, :, :]) ** 2).sum(axis=2).argmin(axis=1)
    return float((by_classifier != by_mean).mean())


def simplex_frame(n_classes: int, dimension: int, rng: Generator) -> Float[np.ndarray, "K d"]:
    """A simplex equiangular tight frame, randomly turned: unit rows with pairwise cosine ``-1 / (K - 1)``.

    Raises ``ValueError`` unless ``dimension >= n_classes - 1``: there is no room for it otherwise.
    """
    whole_number("n_classes", n_classes, 2)
    whole_number("dimension", dimension, n_classes - 1)
    # Rows of I - 11^T/K in an orthonormal basis of the K - 1 directions that they span.
    basis = np.linalg.svd(np.eye(n_classes) - 1 / n_classes)[0][:, : n_classes - 1]
    turn = np.linalg.qr(rng.normal(size=(dimension, dimension)))[0][: n_classes - 1]
    return np.sqrt(n_classes / (n_classes - 1)) * basis @ turn


def _centred(name: str, rows) -> Float[np.ndarray, "K d"]:
    array = finite_array(name, rows, ndim=2)
    if len(array) < 2 or np.ptp(array, axis=0).max() == 0:
        raise ValueError(f"{name} of shape {array.shape}: at least two different rows are needed")
    return array - array.mean(axis=0)
