"""``TransportExplorer`` on points, histograms and images, and what it refuses."""

import numpy as np
import pytest

from paperlab import data
from paperlab.widgets import TransportExplorer
from tests.plugins.contract import assert_explorer


def clouds():
    rng = np.random.default_rng(0)
    return rng.normal(size=(25, 2)), rng.normal(size=(25, 2)) + [3, 0]


def line():
    rng = np.random.default_rng(0)
    return rng.normal(size=20), rng.uniform(size=30) + 2


def digits():
    images = [data.image_histogram(data.digits().features[k].reshape(8, 8)) for k in (3, 8)]
    return images[0][0], images[1][0], images[0][1], images[1][1]


def densities():
    (x, a), (y, b) = data.grid_density(40, [[0.3]], 0.1), data.grid_density(50, [[0.2], [0.8]], 0.05)
    return x, y, a, b


def rounded(points):
    return sorted(np.round(points, 9).tolist())


@pytest.mark.parametrize("make", [clouds, line, digits, densities])
def test_states(make, request):
    explorer = TransportExplorer(*make())
    every = request.config.getoption("--every-state")
    assert_explorer(explorer, explorer.states() if every else explorer.ends())


@pytest.mark.parametrize("cost", ["euclidean", "cityblock", np.arange(625.0).reshape(25, 25) ** 1.5])
def test_costs(cost):
    explorer = TransportExplorer(*clouds(), cost=cost)
    assert_explorer(explorer, explorer.ends())


def test_exact_plan_is_sparse_and_cheapest():
    explorer = TransportExplorer(*clouds())
    costs = []
    for epsilon in explorer.controls[0].values:
        costs.append(explorer.set(epsilon=epsilon).state["cost"])
    assert costs == sorted(costs)
    assert explorer.set(epsilon=0.0).state["entries"] == 25
    assert "Exact plan" in explorer.sentence


def test_interpolation_joins_the_two_clouds():
    """At time 0 the moving mass is x, at time 1 it is y; the standard deviation is the mass's own."""
    x, y = clouds()
    explorer = TransportExplorer(x, y).set(epsilon=0.0, time=0.0)
    assert rounded(explorer.state["moving"]) == rounded(x)
    assert np.isclose(explorer.state["spread"], np.sqrt(((x - x.mean(0)) ** 2).sum(1).mean()))
    assert rounded(explorer.set(time=1.0).state["moving"]) == rounded(y)
    half = explorer.set(time=0.5).state
    assert np.isclose(half["spread"], np.sqrt(((half["moving"] - half["moving"].mean(0)) ** 2).sum(1).mean()))


def test_no_exact_plan_where_it_would_be_slow():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(100, 2)), rng.normal(size=(90, 2))
    assert 0.0 not in TransportExplorer(x, y).controls[0].values
    assert 0.0 in TransportExplorer(x[:, 0], y[:, 0]).controls[0].values


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("x", ([[np.nan, 0.0], [1.0, 1.0]], [[0.0, 0.0], [1.0, 1.0]])),
        ("x", ([], [1.0, 2.0])),
        ("x", ([1.0], [1.0, 2.0])),
        ("x", (np.zeros((3, 3)), np.zeros((3, 3)))),
        ("x", ("points", [1.0, 2.0])),
        ("x", (np.zeros(500), np.arange(3.0))),
        ("y", ([1.0, 2.0], [[1.0, 2.0], [3.0, 4.0]])),
        ("a", ([1.0, 2.0], [1.0, 2.0], [0.5, -0.5])),
        ("a", ([1.0, 2.0], [1.0, 2.0], [1.0, 0.0])),
        ("a", ([1.0, 2.0], [1.0, 2.0], [0.5, 0.7])),
        ("b", ([1.0, 2.0], [1.0, 2.0], None, [1.0])),
        ("b", ([1.0, 2.0], [1.0, 2.0], None, [np.inf, 1.0])),
    ],
)
def test_bad_input(name, arguments):
    with pytest.raises(ValueError, match=rf"^{name}\b"):
        TransportExplorer(*arguments)


@pytest.mark.parametrize("cost", ["cosine", np.ones((2, 3)), np.ones((2, 2)), np.full((2, 2), np.nan)])
def test_bad_cost(cost):
    with pytest.raises(ValueError, match="^cost"):
        TransportExplorer([1.0, 2.0], [1.0, 3.0], cost=cost)
