"""Exercises that say what is wrong with a wrong answer.

An exercise knows its solution, cases to try it on and the usual slips: wrong functions, each with the message a reader
needs who wrote it. ``check`` runs the reader's answer against them.
"""

import copy
import html
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Literal

import numpy as np

from paperlab.catalog import nearest

_CASES_SEED = 0
_COLOURS = {"right": "#009e73", "not yet": "#d55e00", "error": "#d55e00", "not attempted": "inherit"}


def close(yours: Any, expected: Any) -> bool:
    """Whether two answers agree: shapes exactly, numbers to a relative 1e-6 (absolute 1e-9), the rest by equality."""
    if isinstance(expected, (tuple, list)):
        return isinstance(yours, (tuple, list)) and len(yours) == len(expected) and all(map(close, yours, expected))
    if isinstance(expected, (str, bool)) or expected is None:
        return type(yours) is type(expected) and yours == expected
    yours, expected = np.asarray(yours), np.asarray(expected)
    return yours.shape == expected.shape and np.allclose(yours, expected, rtol=1e-6, atol=1e-9, equal_nan=False)


def once(rng: np.random.Generator) -> list[tuple]:
    """The cases of an exercise whose answer is one value: a single case without arguments."""
    return [()]


@dataclass(frozen=True, eq=False)
class Exercise:
    """One exercise of a paper.

    ``kind``: *implement* asks for a function, *experiment* for something found with the explorer or the module, *think*
    for a choice among answers that the task lists. The answer to the last two is a value, and ``answer`` is the model
    answer shown with it.
    ``task``: what to do, in Markdown. ``solution``: the right function; for a value, a function without arguments.
    ``cases``: maps a random generator to a list of argument tuples. ``compare(yours, expected) -> bool``.
    ``slips``: message -> wrong function; the message is shown to a reader whose answers agree with that function.
    ``difficulty``: 1 to 3. ``minutes``: for a third-year student.
    """

    id: str
    task: str
    solution: Callable
    cases: Callable[[np.random.Generator], list[tuple]] = once
    compare: Callable[[Any, Any], bool] = close
    slips: Mapping[str, Callable] = field(default_factory=dict)
    difficulty: Literal[1, 2, 3] = 1
    minutes: int = 10
    kind: Literal["implement", "experiment", "think"] = "implement"
    answer: str = ""

    def __post_init__(self):
        if self.difficulty not in (1, 2, 3):
            raise ValueError(f"exercise {self.id!r}: difficulty={self.difficulty} must be 1, 2 or 3")
        if self.kind not in ("implement", "experiment", "think"):
            raise ValueError(f"exercise {self.id!r}: kind={self.kind!r} must be implement, experiment or think")
        if (self.kind == "implement") == bool(self.answer):
            raise ValueError(
                f"exercise {self.id!r}: answer={self.answer!r}: all kinds but implement have a model answer"
            )


@dataclass(frozen=True)
class Feedback:
    """What ``check`` answers. Shown as text in a terminal and as HTML in a notebook."""

    status: Literal["not attempted", "error", "not yet", "right"]
    message: str

    def require(self) -> "Feedback":
        """Return self if the answer is right, raise ``AssertionError`` otherwise: for solution cells."""
        if self.status != "right":
            raise AssertionError(f"{self.status}: {self.message}")
        return self

    def __str__(self) -> str:
        return f"{self.status}: {self.message}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        message = html.escape(self.message).replace("\n", "<br>")
        return (
            f'<p role="status"><b style="color:{_COLOURS[self.status]}">{self.status.capitalize()}:</b> {message}</p>'
        )


_NOT_ATTEMPTED = Feedback("not attempted", "replace the ... in the cell above by your answer and run both cells again.")


def find(paper: ModuleType, id: str) -> Exercise:
    """The paper's exercise with this id. Raises ``ValueError`` with the nearest ids if there is none."""
    known = {exercise.id: exercise for exercise in paper.exercises()}
    if id not in known:
        raise ValueError(f"id={id!r} is no exercise of {paper.__name__}; {nearest(id, known)}")
    return known[id]


def check(paper: ModuleType, id: str, yours: Any) -> Feedback:
    """Say whether ``yours``, a function or a value, answers the exercise; never raises on the reader's account.

    *not attempted* for a stub, *error* when the reader's code raises, *not yet* with the smallest failing case and,
    where a known slip gives the same answers, its message, or *right*.
    Raises ``ValueError`` if the paper has no exercise ``id``.
    """
    return grade(find(paper, id), yours)


def grade(exercise: Exercise, yours: Any) -> Feedback:
    """``check`` for an exercise at hand."""
    if yours is None or yours is ...:
        return _NOT_ATTEMPTED
    function = yours if callable(yours) else lambda: yours
    cases = exercise.cases(np.random.default_rng(_CASES_SEED))
    answers = []
    for case in cases:
        try:
            answers.append(function(*copy.deepcopy(case)))
        except NotImplementedError:
            answers.append(...)
        except Exception as error:  # whatever the reader's code raises is shown, not raised
            return Feedback("error", f"your code raised {type(error).__name__}: {error}{_line(error)}")
    if all(answer is None or answer is ... for answer in answers):
        return _NOT_ATTEMPTED

    expected = [exercise.solution(*copy.deepcopy(case)) for case in cases]
    failing = [index for index in range(len(cases)) if not _agree(exercise, answers[index], expected[index])]
    if not failing:
        return Feedback("right", exercise.answer or f"{len(cases)} cases agree with the reference.")

    for message, wrong in exercise.slips.items():
        slipped = [wrong(*copy.deepcopy(case)) for case in cases]
        if all(_agree(exercise, answer, slip) for answer, slip in zip(answers, slipped, strict=True)):
            return Feedback("not yet", message)
    if exercise.kind != "implement":
        return Feedback("not yet", f"{_show(answers[0])} is not the answer. The hint may help.")
    smallest = min(failing, key=lambda index: sum(np.size(argument) for argument in cases[index]))
    names = inspect.signature(exercise.solution).parameters
    arguments = "\n".join(f"{name} = {_show(value)}" for name, value in zip(names, cases[smallest], strict=False))
    return Feedback(
        "not yet",
        f"{len(failing)} of {len(cases)} cases differ; the smallest:\n{arguments}\n"
        f"yours: {_show(answers[smallest])}\nexpected: {_show(expected[smallest])}",
    )


def _agree(exercise: Exercise, yours: Any, expected: Any) -> bool:
    try:
        return bool(exercise.compare(yours, expected))
    except (TypeError, ValueError, AttributeError, IndexError, KeyError):
        return False  # an answer of another type or shape, which the comparison was not made for


def _show(value: Any) -> str:
    if isinstance(value, (str, bool)) or value is None or value is ...:
        return repr(value)
    try:
        array = np.asarray(value)
    except ValueError:
        return repr(value)
    if array.dtype == object:
        return repr(value)
    shape = f" (shape {array.shape})" if array.ndim else ""
    return np.array2string(array, precision=4, threshold=20, edgeitems=2) + shape


def _line(error: Exception) -> str:
    # The deepest frame of the reader's own cell, if there is one.
    lines, frame = [], error.__traceback__
    while frame is not None:
        if "ipykernel" in frame.tb_frame.f_code.co_filename or "ipython-input" in frame.tb_frame.f_code.co_filename:
            lines.append(frame.tb_lineno)
        frame = frame.tb_next
    return f" (line {lines[-1]} of your cell)" if lines else ""
