"""Rotations, shifts, contrast and noise of images against NumPy's own moves, interpolation by hand, and moments."""

import numpy as np
import pytest

from paperlab import data
from paperlab.tools.domains import low_contrast, noisy, rotate, shift, unseen_domains

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(size=(3, 2, 5, 5))


@pytest.mark.parametrize("quarters", [-1, 0, 1, 2, 3, 4])
def test_quarter_turns(quarters):
    for images in (IMAGES, RNG.uniform(size=(4, 8, 8))):
        assert np.allclose(rotate(images, 90 * quarters), np.rot90(images, quarters, axes=(-2, -1)))


def bilinear(image, row, column):
    """The value of an image between its pixels, 0 outside."""
    value = 0.0
    for i, j in np.ndindex(image.shape):
        value += image[i, j] * max(0.0, 1 - abs(row - i)) * max(0.0, 1 - abs(column - j))
    return value


@pytest.mark.parametrize("degrees", [-75.0, 20.0, 133.0])
def test_other_angles_pixel_by_pixel(degrees):
    """Each pixel comes from the place that the turn takes to it; rectangular pictures included, three at once."""
    images, angle = RNG.uniform(size=(3, 4, 7)), np.radians(degrees)
    for image, turned in zip(images, rotate(images, degrees), strict=True):
        for i, j in np.ndindex(4, 7):
            # to the right and upwards from the centre
            x, y = j - 3, 1.5 - i
            x, y = np.cos(angle) * x + np.sin(angle) * y, -np.sin(angle) * x + np.cos(angle) * y
            assert np.isclose(turned[i, j], bilinear(image, 1.5 - y, x + 3))


def test_a_symmetric_image_stays():
    """A blurred disc, well inside the picture: what interpolation changes is small."""
    x, y = np.meshgrid(np.linspace(-1, 1, 41), np.linspace(-1, 1, 41))
    disc = np.exp(-8 * (x**2 + y**2))
    assert np.abs(rotate(disc, 33.0) - disc).max() < 0.01
    assert np.abs(rotate(disc * (x > 0), 33.0) - disc * (x > 0)).max() > 0.5


def test_left_is_anticlockwise():
    """The right end of a bar rises."""
    bar = np.zeros((9, 9))
    bar[4, 5:] = 1
    turned = rotate(bar, 20.0)
    assert turned[:4].sum() > 1
    assert turned[5:].sum() == 0


@pytest.mark.parametrize(("down", "right"), [(1, 0), (0, 1), (-2, 3), (0, 0), (4, -4)])
def test_shift_is_roll_with_zeros(down, right):
    expected = np.roll(IMAGES, (down, right), axis=(-2, -1))
    rows, columns = np.indices((5, 5))
    outside = (rows - down < 0) | (rows - down > 4) | (columns - right < 0) | (columns - right > 4)
    assert np.array_equal(shift(IMAGES, down, right), np.where(outside, 0.0, expected))


def test_moments_of_contrast_and_noise():
    dull = low_contrast(IMAGES, 0.4)
    assert np.isclose(dull.mean() - 0.5, 0.4 * (IMAGES.mean() - 0.5))
    assert np.isclose(dull.std(), 0.4 * IMAGES.std())
    assert np.allclose(low_contrast(IMAGES, 0.5, level=0.0), IMAGES / 2)
    noise = noisy(np.full((50, 40, 40), 0.3), 0.2, np.random.default_rng(1))
    assert abs(noise.mean() - 0.3) < 0.003
    assert abs(noise.std() - 0.2) < 0.003
    assert abs((noise[:, 1:] * noise[:, :-1]).mean() - 0.09) < 0.003


def test_domains_of_digits():
    rows = data.digits().features[:6].reshape(2, 3, 64)
    found = unseen_domains(rows, np.random.default_rng(2))
    assert [each.shape for each in found.values()] == [(2, 3, 64)] * 5
    images = rows.reshape(2, 3, 8, 8)
    assert np.allclose(found["turned left"], rotate(images, 20.0).reshape(rows.shape))
    assert np.allclose(found["turned right"], rotate(images, -20.0).reshape(rows.shape))
    assert np.allclose(found["shifted"].reshape(images.shape)[..., 1:], images[..., :-1])
    assert np.allclose(found["low contrast"].min(), 0.3)
    assert np.array_equal(found["noisy"], unseen_domains(rows, np.random.default_rng(2))["noisy"])


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: rotate(np.ones(5), 10.0), "images"),
        (lambda: rotate([[np.nan, 1.0]], 10.0), "images"),
        (lambda: rotate(IMAGES, np.inf), "degrees"),
        (lambda: shift(IMAGES, down=5), "down"),
        (lambda: shift(IMAGES, right=0.5), "right"),
        (lambda: low_contrast(IMAGES, 0.0), "factor"),
        (lambda: low_contrast(IMAGES, 1.0, level=np.nan), "level"),
        (lambda: noisy(IMAGES, -1.0, RNG), "std"),
        (lambda: unseen_domains(np.ones((2, 63)), RNG), "rows"),
    ],
)
def test_bad_input(call, name):
    with pytest.raises(ValueError, match=rf"^{name}\b"):
        call()
