"""The data sets against scikit-learn's own loaders, and the generated ones against what they promise."""

import subprocess
import sys

import numpy as np
import pytest
import sklearn.datasets

from paperlab import data


@pytest.mark.parametrize(
    ("ours", "theirs", "scale"),
    [
        (data.digits, sklearn.datasets.load_digits, 16),
        (data.breast_cancer, sklearn.datasets.load_breast_cancer, 1),
        (data.wine, sklearn.datasets.load_wine, 1),
        (data.diabetes, lambda: sklearn.datasets.load_diabetes(scaled=False), 1),
    ],
)
def test_same_as_scikit_learn(ours, theirs, scale):
    expected = theirs()
    assert np.array_equal(ours().features * scale, expected.data)
    assert np.array_equal(ours().targets, expected.target)
    assert ours().features.dtype == np.float64
    with pytest.raises(ValueError, match="read-only"):
        ours().features[0, 0] = 1


def test_sample_images():
    for name in ("china", "flower"):
        image = data.sample_image(name)
        assert np.array_equal(image * 255, sklearn.datasets.load_sample_image(f"{name}.jpg"))


def test_scikit_learn_is_not_imported():
    code = "import sys; from paperlab.data import *; digits(), sample_image('china'); print('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_standardize():
    features = data.standardize(data.digits().features)
    constant = np.ptp(data.digits().features, axis=0) == 0
    assert np.allclose(features.mean(axis=0), 0, atol=1e-12)
    assert np.allclose(features.std(axis=0), ~constant)


def test_split_is_a_partition():
    train, test = data.split(data.wine(), np.random.default_rng(0), test=0.3)
    assert (len(train.targets), len(test.targets)) == (125, 53)
    rows = np.concatenate([train.features, test.features])
    assert np.array_equal(np.sort(rows, axis=0), np.sort(data.wine().features, axis=0))


def test_generated_points():
    rng = np.random.default_rng(0)
    mixture = data.gaussian_mixture(rng, 4000, [[0, 0], [10, 0]], std=0.5, weights=[0.25, 0.75])
    assert abs(mixture.targets.mean() - 0.75) < 0.03
    assert np.allclose(mixture.features[mixture.targets == 1].mean(axis=0), [10, 0], atol=0.05)
    moons = data.two_moons(rng, 200, noise=0.0)
    upper = moons.features[moons.targets == 0]
    assert np.allclose(np.linalg.norm(upper, axis=1), 1)
    arms = data.spirals(rng, 90, classes=3)
    assert np.array_equal(np.bincount(arms.targets), [30, 30, 30])
    assert np.linalg.norm(arms.features, axis=1).max() < 1.2


def test_grid_density_is_a_histogram():
    for centres in ([[0.3], [0.7]], [[0.2, 0.2]]):
        points, mass = data.grid_density(16, centres, 0.1)
        assert points.shape == (16 ** len(centres[0]), len(centres[0]))
        assert mass.min() > 0
        assert np.isclose(mass.sum(), 1)
    assert np.allclose((mass[:, None] * points).sum(axis=0), [0.2, 0.2], atol=0.03)


def test_image_histogram_places_and_masses():
    image = np.array([[0.0, 2.0], [1.0, 1.0]])
    points, mass = data.image_histogram(image)
    assert {tuple(point): share for point, share in zip(points, mass, strict=True)} == {
        (1.0, 1.0): 0.5,
        (0.0, 0.0): 0.25,
        (1.0, 0.0): 0.25,
    }


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: data.sample_image("dog"), "name='dog'"),
        (lambda: data.split(data.wine(), np.random.default_rng(0), test=0), "test=0"),
        (lambda: data.two_moons(np.random.default_rng(0), 0), "n=0"),
        (lambda: data.grid_density(4, [[1, 2, 3]], 0.1), "centres has 3 columns"),
        (lambda: data.image_histogram(np.zeros((2, 2))), "image of shape"),
        (lambda: data.image_histogram(-np.ones((2, 2))), "image of shape"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()
