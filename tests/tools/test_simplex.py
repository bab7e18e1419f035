"""Projection onto the simplex against a quadratic program's optimality conditions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from paperlab.tools.simplex import entries_carrying, project_to_simplex, share_of_largest


@settings(derandomize=True, max_examples=30, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=12), st.floats(0.1, 3))
def test_optimality_conditions(values, total):
    """The projection is max(v - theta, 0) with the right sum, and that is sufficient."""
    vector = np.array(values)
    point = project_to_simplex(vector, total)
    assert point.min() >= 0
    assert np.isclose(point.sum(), total)
    shifts = (vector - point)[point > 0]
    assert np.allclose(shifts, shifts[0])
    assert (vector[point == 0] <= shifts[0] + 1e-9).all()


def test_against_a_general_optimiser():
    rng = np.random.default_rng(0)
    vector = rng.normal(size=6)
    best = minimize(
        lambda p: ((p - vector) ** 2).sum(),
        np.full(6, 1 / 6),
        bounds=[(0, None)] * 6,
        constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
        options={"ftol": 1e-14},
    )
    assert np.allclose(project_to_simplex(vector), best.x, atol=1e-6)


def test_rows_are_projected_each():
    rows = np.random.default_rng(0).normal(size=(4, 5))
    assert np.allclose(project_to_simplex(rows), [project_to_simplex(row) for row in rows])


def test_entries_carrying():
    mass = np.array([[0.5, 0.0], [0.3, 0.2]])
    assert [entries_carrying(mass, share) for share in (0.5, 0.51, 0.8, 1.0)] == [1, 2, 2, 3]


def test_share_of_largest():
    mass = np.array([0.4, 0.1, 0.3, 0.2])
    assert [round(share_of_largest(mass, part), 12) for part in (0.01, 0.5, 1.0)] == [0.4, 0.7, 1.0]


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: project_to_simplex([]), "vector"),
        (lambda: project_to_simplex([np.nan, 1.0]), "vector"),
        (lambda: project_to_simplex([1.0], total=0), "total"),
        (lambda: entries_carrying([0.5, -0.5]), "mass"),
        (lambda: entries_carrying([0.0, 0.0]), "mass"),
        (lambda: entries_carrying([1.0], share=0), "share"),
        (lambda: share_of_largest([1.0], 1.5), "fraction"),
        (lambda: share_of_largest([-1.0, 1.0], 0.5), "mass"),
    ],
)
def test_bad_input(call, name):
    with pytest.raises(ValueError, match=rf"^{name}\b"):
        call()
