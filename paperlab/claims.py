"""Claims: what a paper says, as a number that is measured, with a control that must fail.

A notebook that runs proves nothing. A claim compares one absolute quantity on two arms, the method and a control, with
the same bound. It holds only when the method keeps to the bound and the control breaks it, both by more than luck.
"""

import html
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from paperlab.predict import prediction
from paperlab.source import in_notebook

# How far the bound lies from both arms, as a share of the distance between them. At 0 the bound coincides with an arm;
# 0.5, exactly between them, is the best possible.
SMALLEST_MARGIN = 0.1

_KINDS = {
    "baseline": "baseline",
    "ablation": "ablation",
    "broken": "deliberately broken variant",
    "assumption violated": "assumption violated",
}
_SIGN = {"<": 1, "<=": 1, ">": -1, ">=": -1}
_WORDS = {"<": "below", "<=": "at most", ">": "above", ">=": "at least"}


@dataclass(frozen=True)
class Control:
    """The arm that must fail.

    ``name`` says what was run, ``value`` is the claim's quantity on it, ``kind`` says why it is a fair control:
    *baseline* (what one would use instead), *ablation* (the method without its idea), *broken* (a deliberately wrong
    variant, the only honest control of an identity) or *assumption violated* (a theorem without its hypothesis).
    """

    name: str
    value: float
    kind: Literal["baseline", "ablation", "broken", "assumption violated"]

    def __post_init__(self):
        if self.kind not in _KINDS:
            raise ValueError(f"control {self.name!r}: kind={self.kind!r} must be one of {', '.join(_KINDS)}")


@dataclass(frozen=True)
class Claim:
    """A statement of a paper as an inequality ``measured relation bound`` that the control breaks.

    ``quantity`` and ``unit`` name what is measured, on both arms alike: an absolute quantity, never the ratio of the
    two arms. ``scale="log"`` takes margins between logarithms; then all three numbers must be positive. All numbers
    must be finite: an arm that diverges is measured by a finite quantity, such as the number of runs that diverged.
    """

    id: str
    statement: str
    source: str
    quantity: str
    unit: str
    measured: float
    relation: Literal["<", "<=", ">", ">="]
    bound: float
    control: Control
    scale: Literal["linear", "log"] = "linear"

    def __post_init__(self):
        if self.relation not in _SIGN:
            raise ValueError(f"claim {self.id!r}: relation={self.relation!r} must be one of {', '.join(_SIGN)}")
        if self.scale not in ("linear", "log"):
            raise ValueError(f"claim {self.id!r}: scale={self.scale!r} must be 'linear' or 'log'")
        for name, value in (("measured", self.measured), ("bound", self.bound), ("control.value", self.control.value)):
            if not math.isfinite(value):
                raise ValueError(f"claim {self.id!r}: {name}={value} is not finite")
            if self.scale == "log" and value <= 0:
                raise ValueError(f"claim {self.id!r}: {name}={value} must be positive on a log scale")

    @property
    def holds(self) -> bool:
        """Whether the method keeps to the bound."""
        return self._keeps(self.measured)

    @property
    def control_fails(self) -> bool:
        """Whether the control breaks the bound, as it must."""
        return not self._keeps(self.control.value)

    @property
    def margin(self) -> float:
        """``min(bound - measured, control - bound) / (control - measured)``, signs by the relation, at most 0.5.

        ``-inf`` if the control does at least as well as the method.
        """
        transform = math.log if self.scale == "log" else float
        sign = _SIGN[self.relation]
        measured, bound, control = (
            sign * transform(value) for value in (self.measured, self.bound, self.control.value)
        )
        if control <= measured:
            return -math.inf
        return min(bound - measured, control - bound) / (control - measured)

    @property
    def verdict(self) -> str:
        """``"holds"``, or what is wrong."""
        if not self.holds:
            return "does not hold"
        if not self.control_fails:
            return "holds, but the control does as well: nothing is shown"
        if self.margin < SMALLEST_MARGIN:
            return f"too close to call: margin {self.margin:.2f}, at least {SMALLEST_MARGIN} is needed"
        return "holds"

    def _keeps(self, value: float) -> bool:
        difference = _SIGN[self.relation] * (self.bound - value)
        return difference >= 0 if "=" in self.relation else difference > 0


@dataclass(frozen=True)
class Observation:
    """Two numbers side by side without a verdict: what only compares, wins of a control included.

    ``statement`` says what is compared, in which unit; ``why`` says why it is worth knowing and why it is no claim.
    """

    statement: str
    value: float
    other: float
    why: str

    def __post_init__(self):
        for name, value in (("value", self.value), ("other", self.other)):
            if math.isnan(value):
                raise ValueError(f"observation {self.statement!r}: {name} is NaN")


class ClaimFailed(AssertionError):
    """A claim does not hold, or its control does not fail."""


def check(claims: Iterable[Claim | Observation]) -> None:
    """Show the table of claims and observations; raise ``ClaimFailed`` unless every claim holds and its control fails.

    Raises ``ValueError`` if there is no claim to check, or if two claims share an id.
    """
    rows = tuple(claims)
    ids = [row.id for row in rows if isinstance(row, Claim)]
    if not ids:
        raise ValueError("claims is empty: there is nothing to check")
    if len(set(ids)) < len(ids):
        raise ValueError(f"claims have ids {ids}: two of them are the same")
    if in_notebook():
        from IPython.display import display

        display({"text/html": table_html(rows), "text/plain": table_text(rows)}, raw=True)
    else:
        print(table_text(rows))
    failed = [f"{row.id}: {row.verdict}" for row in rows if isinstance(row, Claim) and row.verdict != "holds"]
    if failed:
        raise ClaimFailed("; ".join(failed))


def table_text(rows: Iterable[Claim | Observation]) -> str:
    """The table as plain text: one paragraph a row."""
    return "\n\n".join("\n".join(_lines(row)) for row in rows)


def table_html(rows: Iterable[Claim | Observation]) -> str:
    """The table as HTML, readable in light and dark themes and by a screen reader."""
    left = "text-align:left"
    head = "".join(f'<th scope="col" style="{left}">{name}</th>' for name in ("Verdict", "What was tested"))
    body = []
    for row in rows:
        mark, *lines = _lines(row)
        text = "<br>".join(html.escape(line.strip()) for line in lines)
        colour = {"✓": "#009e73", "✗": "#d55e00"}.get(mark[0], "inherit")
        verdict, _, statement = mark.partition(": ")
        body.append(
            f'<tr><td style="{left};vertical-align:top;white-space:nowrap;font-weight:bold;color:{colour}">'
            f'{html.escape(verdict)}</td><td style="{left}"><b>{html.escape(statement)}</b><br>{text}</td></tr>'
        )
    return f'<table style="max-width:60em"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'


def _lines(row: Claim | Observation) -> list[str]:
    if isinstance(row, Observation):
        return [f"· observed: {row.statement}", f"  {_number(row.value)} against {_number(row.other)}", f"  {row.why}"]
    unit = f" {row.unit}" if row.unit else ""
    lines = [
        f"{'✓ holds' if row.verdict == 'holds' else '✗ fails'}: {row.statement}",
        f"  {row.quantity}: measured {_number(row.measured)}{unit}, {_WORDS[row.relation]} {_number(row.bound)} asked",
        f"  control ({_KINDS[row.control.kind]}): {row.control.name}: {_number(row.control.value)}{unit}, "
        + ("fails as it must" if row.control_fails else "does not fail"),
        f"  margin {row.margin:.2f} of at most 0.50; source: {row.source}",
    ]
    if row.verdict != "holds":
        lines.append(f"  {row.verdict}")
    if prediction(row.id) is not None:
        lines.append(f"  you predicted {prediction(row.id)}; measured: {_number(row.measured)}{unit}")
    return lines


def _number(value: float) -> str:
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e6 else f"{value:.3g}"
