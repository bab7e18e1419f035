"""<...> What the method is compared with: a closed form, brute force, SciPy, another package."""

import numpy as np
import pytest

from paperlab.landscape import gaqat as paper


def test_against_an_independent_computation():
    """<...> The oracle: never the method against itself."""
    expected = np.full(3, np.nan)  # <...>
    assert np.allclose(paper.method(np.ones(3), 0.5), expected)


@pytest.mark.parametrize(("name", "change"), [("step", {"step": 0.0}), ("step", {"step": np.nan})])
def test_bad_input(name, change):
    with pytest.raises(ValueError, match=rf"^{name}\b"):
        paper.method(**{"x": np.ones(3), "step": 0.5, **change})


# Mistakes that people make. The old text occurs once in the module; the tests named below must fail with the new one.
SLIPS = {
    "<...> wrong sign": ("x - step * x", "x + step * x"),
    "<...> no step size": ("x - step * x", "x - x"),
}
CATCHES = {
    "<...> wrong sign": ["test_against_an_independent_computation"],
    "<...> no step size": ["test_against_an_independent_computation"],
}
