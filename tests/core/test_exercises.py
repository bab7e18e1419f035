"""Feedback: each kind of answer gets its own."""

from types import SimpleNamespace

import numpy as np
import pytest

from paperlab import exercises
from paperlab.exercises import Exercise, close

SUM = Exercise(
    id="total",
    task="Sum it.",
    solution=lambda x: x.sum(),
    cases=lambda rng: [(rng.normal(size=n),) for n in (7, 2, 4)],
    slips={"That is the mean.": lambda x: x.mean()},
)
LETTER = Exercise(id="letter", task="a or b?", solution=lambda: "a", kind="think", answer="Because.")
PAPER = SimpleNamespace(__name__="paper", exercises=lambda: (SUM, LETTER))


def stub(x):
    """Docstring only."""


def unfinished(x):
    raise NotImplementedError


def raises(x):
    return x / "two"


def changes_its_argument(x):
    x[:] = 0
    return 0.0


@pytest.mark.parametrize(
    ("id", "yours", "status", "words"),
    [
        ("total", stub, "not attempted", "replace the ..."),
        ("total", unfinished, "not attempted", "replace"),
        ("total", ..., "not attempted", "replace"),
        ("total", np.sum, "right", "3 cases agree"),
        ("total", np.mean, "not yet", "That is the mean."),
        ("total", raises, "error", "your code raised"),
        ("total", lambda x: "text", "not yet", "3 of 3 cases differ"),
        ("total", lambda x: x, "not yet", "(shape (2,))"),
        ("total", changes_its_argument, "not yet", "expected"),
        ("total", lambda: 1, "error", "TypeError"),
        ("letter", ..., "not attempted", "replace"),
        ("letter", "a", "right", "Because."),
        ("letter", "b", "not yet", "'b' is not the answer"),
        ("letter", 3, "not yet", "is not the answer"),
    ],
)
def test_answers(id, yours, status, words):
    feedback = exercises.check(PAPER, id, yours)
    assert feedback.status == status
    assert words in feedback.message
    assert status.capitalize() in feedback._repr_html_()


def test_smallest_failing_case_is_shown():
    message = exercises.check(PAPER, "total", lambda x: x.sum() + 1).message
    assert "(shape (2,))" in message
    assert "yours" in message
    assert "expected" in message


def test_require():
    assert exercises.check(PAPER, "total", np.sum).require().status == "right"
    with pytest.raises(AssertionError, match="not yet: That is the mean"):
        exercises.check(PAPER, "total", np.mean).require()


@pytest.mark.parametrize(
    ("yours", "expected", "agree"),
    [
        (np.ones(3), np.ones(3) + 1e-12, True),
        (np.ones(3), np.ones((3, 1)), False),
        (np.nan, np.nan, False),
        ((1, "a"), (1, "a"), True),
        ((1,), (1, 2), False),
        (1, "1", False),
        (True, 1, True),
        (1, True, False),
    ],
)
def test_close(yours, expected, agree):
    assert close(yours, expected) == agree


def test_bad_input():
    with pytest.raises(ValueError, match="did you mean total"):
        exercises.check(PAPER, "totel", np.sum)
    with pytest.raises(ValueError, match="difficulty=4"):
        Exercise(id="x", task="", solution=np.sum, difficulty=4)
    with pytest.raises(ValueError, match="kind='essay'"):
        Exercise(id="x", task="", solution=np.sum, kind="essay")
    with pytest.raises(ValueError, match="model answer"):
        Exercise(id="x", task="", solution=lambda: 1, kind="think")
