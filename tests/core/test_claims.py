"""Claims: when one holds, its margin, and what the table says."""

import math

import pytest

from paperlab import claims
from paperlab.claims import Claim, ClaimFailed, Control, Observation, check
from paperlab.predict import choose, predict


def claim(measured=2.0, bound=5.0, control=10.0, relation="<=", scale="linear", **changes) -> Claim:
    fields = {
        "id": "c",
        "statement": "Few steps",
        "source": "Theorem 1",
        "quantity": "steps to the end",
        "unit": "steps",
        "measured": measured,
        "relation": relation,
        "bound": bound,
        "control": Control("plain", control, "baseline"),
        "scale": scale,
    }
    return Claim(**{**fields, **changes})


@pytest.mark.parametrize(
    ("made", "margin"),
    [
        (claim(), 3 / 8),
        (claim(bound=6.0), 0.5),
        (claim(10.0, 5.0, 2.0, ">="), 3 / 8),
        (claim(1.0, 10.0, 100.0, scale="log"), 0.5),
        (claim(1.0, 2.0, 100.0, scale="log"), math.log(2) / math.log(100)),
        (claim(6.0, 5.0, 10.0), -1 / 4),
        (claim(2.0, 5.0, 4.0), -1 / 2),
        (claim(3.0, 5.0, 3.0), -math.inf),
        (claim(3.0, 5.0, 1.0), -math.inf),
    ],
)
def test_margin(made, margin):
    assert made.margin == pytest.approx(margin)
    assert (made.verdict == "holds") == (margin >= claims.SMALLEST_MARGIN)


def test_strict_relations():
    assert not claim(5.0, 5.0, 9.0, "<").holds
    assert claim(5.0, 5.0, 9.0, "<=").holds
    assert claim(4.0, 4.0, 1.0, ">=").holds
    assert not claim(4.0, 4.0, 1.0, ">").holds


def test_verdicts_say_what_is_wrong():
    assert claim(6.0).verdict == "does not hold"
    assert "nothing is shown" in claim(2.0, 5.0, 4.0).verdict
    assert "too close to call" in claim(4.9).verdict


def test_check_shows_the_table_and_raises(capsys):
    check([claim(), Observation("a against b", 1.5, 2.0, "b wins, which is worth knowing")])
    shown = capsys.readouterr().out
    assert "✓ holds: Few steps" in shown
    assert "measured 2 steps, at most 5 asked" in shown
    assert "control (baseline): plain: 10 steps, fails as it must" in shown
    assert "1.5 against 2" in shown
    with pytest.raises(ClaimFailed, match="c: holds, but the control does as well"):
        check([claim(control=4.0)])
    assert "✗ fails" in capsys.readouterr().out


def test_table_escapes_and_names_the_prediction():
    predict("p", "How many?", ["one", "two"])
    assert "you predicted nothing" in claims.table_text([claim(id="p")])
    choose("p", "two")
    assert 'you predicted "two"; measured: 2 steps' in claims.table_text([claim(id="p")])
    assert "&lt;b&gt;" in claims.table_html([claim(statement="<b>")])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: claim(math.nan), "measured=nan is not finite"),
        (lambda: claim(control=math.inf), "control.value=inf is not finite"),
        (lambda: claim(bound=math.nan), "bound=nan"),
        (lambda: claim(0.0, scale="log"), "must be positive on a log scale"),
        (lambda: claim(relation="=="), "relation='=='"),
        (lambda: claim(scale="cubic"), "scale='cubic'"),
        (lambda: Control("x", 1.0, "rival"), "kind='rival'"),
        (lambda: Observation("x", math.nan, 1.0, "y"), "value is NaN"),
        (lambda: check([]), "claims is empty"),
        (lambda: check([Observation("x", 1.0, 2.0, "y")]), "claims is empty"),
        (lambda: check([claim(), claim()]), "two of them are the same"),
        (lambda: predict("p", "?", ["only"]), "at least two"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()
