"""NC1 to NC4 on collapsed features, against loops, and under changes that must not matter."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paperlab.tools.neural_collapse import class_statistics, nc1, nc2, nc3, nc4, simplex_frame


def sample(seed: int = 0, sizes=(5, 8, 3, 6), d: int = 7):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    return 2 * rng.normal(size=(len(sizes), d))[labels] + rng.normal(size=(len(labels), d)), labels


def test_statistics_against_loops():
    features, labels = sample()
    statistics = class_statistics(features, labels)
    groups = [features[labels == c] for c in range(4)]
    means = np.array([group.mean(axis=0) for group in groups])
    assert np.allclose(statistics.means, means)
    assert np.allclose(statistics.within, np.mean([np.cov(group.T, bias=True) for group in groups], axis=0))
    assert np.allclose(statistics.between, np.cov(means.T, bias=True))
    assert np.allclose(statistics.global_mean, means.mean(axis=0))


def test_total_is_within_plus_between_for_equal_classes():
    features, labels = sample(sizes=(6, 6, 6))
    statistics = class_statistics(features, labels)
    assert np.allclose(np.cov(features.T, bias=True), statistics.within + statistics.between)


def test_nc1_with_the_pseudo_inverse():
    features, labels = sample()
    statistics = class_statistics(features, labels)
    expected = np.trace(statistics.within @ np.linalg.pinv(statistics.between, rcond=1e-10)) / 4
    assert np.isclose(nc1(features, labels, "pinv"), expected)


@settings(derandomize=True, max_examples=15, deadline=None)
@given(st.integers(2, 7), st.integers(0, 5), st.integers(0, 10_000))
def test_all_are_zero_at_collapse(n_classes, extra, seed):
    rng = np.random.default_rng(seed)
    frame = simplex_frame(n_classes, n_classes - 1 + extra, rng)
    assert np.allclose(frame @ frame.T, np.eye(n_classes) * n_classes / (n_classes - 1) - 1 / (n_classes - 1))
    labels = np.repeat(np.arange(n_classes), 3)
    features = 4 * frame[labels] + rng.normal(size=frame.shape[1])
    assert nc1(features, labels) < 1e-12
    assert nc1(features, labels, "pinv") < 1e-12
    assert max(nc2(class_statistics(features, labels).means)) < 1e-7
    assert nc3(0.3 * frame, 4 * frame) < 1e-12
    assert nc4(4 * frame[labels], labels, frame) == 0


def test_turning_and_scaling_do_not_matter():
    features, labels = sample()
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(7, 7)))[0]
    W = class_statistics(features, labels).means
    moved, moved_W = 3 * features @ turn, 0.2 * W @ turn
    assert np.isclose(nc1(moved, labels), nc1(features, labels))
    assert np.isclose(nc1(moved, labels, "pinv"), nc1(features, labels, "pinv"))
    assert np.allclose(nc2(3 * W @ turn), nc2(W))
    assert np.isclose(nc3(moved_W, 3 * W @ turn), 0)
    assert nc4(moved, labels, moved_W) == nc4(features, labels, W)


def test_nc2_and_nc3_by_hand():
    """Three means on a line: lengths 1, 0.5, 0.5 apart from the middle, cosines -1, -1, 1 against -1/2."""
    means = np.array([[-2.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    lengths, cosines, _ = nc2(means)
    assert np.isclose(lengths, np.std([2, 1, 1]) / (4 / 3))
    assert np.isclose(cosines, (0.5 + 0.5 + 1.5) / 3)
    assert np.isclose(nc3(-means, means), 2)


def test_nc4_counts_disagreements():
    features = np.array([[-1.0], [-3.0], [1.0], [3.0]])
    labels = np.array([0, 0, 1, 1])
    assert nc4(features, labels, np.array([[-1.0], [1.0]])) == 0
    assert nc4(features, labels, np.array([[-1.0], [1.0]]), np.array([0.0, 4.0])) == 0.25
    assert nc4(features, labels, np.array([[1.0], [-1.0]])) == 1


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: class_statistics(np.zeros((3, 2)), np.array([0, 1])), "labels"),
        (lambda: class_statistics(np.zeros((2, 2)), np.array([0.0, 1.0])), "labels"),
        (lambda: class_statistics(np.zeros((2, 2)), np.array([0, 2])), "labels"),
        (lambda: class_statistics(np.zeros((2, 2)), np.array([0, 0])), "labels"),
        (lambda: class_statistics(np.full((2, 2), np.nan), np.array([0, 1])), "features"),
        (lambda: nc1(*sample(), variant="trave"), "variant"),
        (lambda: nc2(np.ones((3, 2))), "means"),
        (lambda: nc2(np.array([[0.0], [1.0], [2.0]])), "means"),
        (lambda: nc3(np.eye(2), np.eye(3)), "W"),
        (lambda: simplex_frame(4, 2, np.random.default_rng(0)), "dimension"),
        (lambda: simplex_frame(1, 2, np.random.default_rng(0)), "n_classes"),
    ],
)
def test_bad_input(call, name):
    with pytest.raises(ValueError, match=rf"^{name}\b"):
        call()
