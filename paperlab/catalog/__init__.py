"""The fixed list of papers: one TOML file a family, one entry a paper, in teaching order.

An entry always has ``id`` and ``title``, and ``authors``, ``year`` and ``arxiv`` where they are known. A paper that has
a unit also has ``claim`` (one line), ``level``, ``minutes``, ``needs`` and ``related``.
"""

import difflib
import importlib
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
CATALOG = Path(__file__).parent

LEVELS = {
    1: "first course: linear algebra, calculus and probability are enough",
    2: "second course: you have trained a model and met the family's basic objects",
    3: "seminar: you are ready to fill in steps of a proof yourself",
}
RELATIONS = ("builds on", "special case of", "contradicts", "same tool")

# The families in the order of the index: the ones with the most to look at first.
FAMILIES = (
    "transport", "landscape", "collapse", "optimizers", "descent", "bilevel", "distributed", "online", "theory",
    "robustness", "lowrank", "sparsity", "compression", "bayes", "diffusion", "imaging", "fields", "physics",
    "combinatorial", "causality", "retrieval",
)  # fmt: skip


@dataclass(frozen=True)
class Related:
    """A typed link to another paper: ``how`` is one of ``RELATIONS``."""

    paper: str
    how: str


@dataclass(frozen=True)
class Paper:
    """One paper of the catalog. Fields that are not known, or not written yet, are ``None`` or empty."""

    id: str
    family: str
    title: str
    authors: tuple[str, ...] = ()
    year: int | None = None
    arxiv: str | None = None
    claim: str | None = None
    level: int | None = None
    minutes: int | None = None
    needs: tuple[str, ...] = ()
    related: tuple[Related, ...] = ()

    @property
    def module_path(self) -> Path:
        return ROOT / "paperlab" / self.family / f"{self.id}.py"

    @property
    def notebook_path(self) -> Path:
        return ROOT / "notebooks" / self.family / f"{self.id}.ipynb"

    @property
    def test_path(self) -> Path:
        return ROOT / "tests" / self.family / f"test_{self.id}.py"

    @property
    def preview_path(self) -> Path:
        return ROOT / "notebooks" / "previews" / f"{self.id}.png"

    @property
    def is_there(self) -> bool:
        """Whether the paper has a unit: its module exists."""
        return self.module_path.exists()

    @property
    def citation(self) -> str:
        """Authors, year and source in one line, as far as they are known."""
        names = [name for name in self.authors if name != "et al."]
        people = ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1] if names else ""
        if "et al." in self.authors:
            people = ", ".join(names) + " et al."
        source = f"arXiv {self.arxiv}" if self.arxiv else ""
        return ", ".join(part for part in (people, str(self.year or ""), source) if part)

    def module(self) -> ModuleType:
        """Import the paper's module."""
        return importlib.import_module(f"paperlab.{self.family}.{self.id}")


@dataclass(frozen=True)
class Family:
    """A family of papers: its id, its title and one line about it."""

    id: str
    title: str
    about: str


@cache
def families() -> tuple[Family, ...]:
    """All families, in the order of the index."""
    return tuple(Family(name, _load(name)["title"], _load(name)["about"]) for name in FAMILIES)


@cache
def papers(family: str | None = None) -> tuple[Paper, ...]:
    """All papers, or those of one family, in teaching order.

    Raises ``ValueError`` with the nearest names if the family is unknown.
    """
    if family is not None and family not in FAMILIES:
        raise ValueError(f"family={family!r} is unknown; {nearest(family, FAMILIES)}")
    return tuple(
        Paper(
            family=name,
            **{
                **entry,
                "authors": tuple(entry.get("authors", ())),
                "needs": tuple(entry.get("needs", ())),
                "related": tuple(Related(**link) for link in entry.get("related", ())),
            },
        )
        for name in ([family] if family else FAMILIES)
        for entry in _load(name).get("paper", ())
    )


def paper(id: str) -> Paper:
    """The paper with this id. Raises ``ValueError`` with the nearest ids if there is none."""
    known = {entry.id: entry for entry in papers()}
    if id not in known:
        raise ValueError(f"id={id!r} is not in the catalog; {nearest(id, known)}")
    return known[id]


def nearest(name: str, known) -> str:
    """A hint for a mistyped name: the nearest of the known names."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    return f"did you mean {' or '.join(close)}?" if close else f"the known names are in {CATALOG}"


@cache
def _load(family: str) -> dict:
    return tomllib.loads((CATALOG / f"{family}.toml").read_text(encoding="utf-8"))
