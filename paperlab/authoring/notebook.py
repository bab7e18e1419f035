"""The anatomy of a notebook: its fixed cells, its generated cells and the normal form it is stored in."""

import nbformat
from nbformat import NotebookNode

from paperlab.catalog import LEVELS, Paper, paper
from paperlab.exercises import Exercise

# Cell id -> heading. The ids of all other cells begin with the id of their section and a hyphen.
SECTIONS = {
    "question": "The question",
    "predict": "Predict",
    "idea": "The idea",
    "algorithm": "The algorithm",
    "play": "Play",
    "claim": "The claim, tested",
    "exercises": "Exercises",
    "limits": "What is not shown here",
    "next": "Where next",
}
TAGS = frozenset({"stub", "hint", "solution", "lecture"})
# The cells of an exercise, in this order: ``exercise-<id>-<part>``.
EXERCISE_PARTS = ("task", "stub", "check", "hint", "solution")

_KINDS = {"implement": "Write it", "experiment": "Try it out", "think": "Think about it"}
_METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def setup_source(entry: Paper) -> str:
    """The first code cell, the same everywhere."""
    return (
        "from paperlab import check, exercises, predict, show_source\n"
        f"from paperlab.{entry.family} import {entry.id} as paper"
    )


def title_source(entry: Paper) -> str:
    """The title cell, from the catalog."""
    source = f" [arXiv {entry.arxiv}](https://arxiv.org/abs/{entry.arxiv})" if entry.arxiv else ""
    citation = entry.citation.removesuffix(f", arXiv {entry.arxiv}") + "." + source
    needs = ", ".join(entry.needs) or "nothing special"
    return (
        f"# {entry.title}\n\n{citation}\n\n**The claim.** {entry.claim}\n\n"
        f"Level {entry.level} ({LEVELS[entry.level]}) · {entry.minutes} minutes · you need: {needs}\n\n"
        f"![Preview of the result: {entry.claim}](../previews/{entry.id}.png)"
    )


def next_source(entry: Paper) -> str:
    """The "Where next" cell, from the catalog's relations."""
    links = []
    for link in entry.related:
        other = paper(link.paper)
        title = f"[{other.title}](../{other.family}/{other.id}.ipynb)" if other.is_there else f"{other.title} (not yet)"
        links.append(f"- *{link.how}*: {title}")
    body = "\n".join(links) or "- [The index of all papers](../index.ipynb)"
    return f"## {SECTIONS['next']}\n\n{body}\n\nThe paper: {entry.citation}."


def task_source(exercise: Exercise) -> str:
    """The task cell of an exercise, from the module."""
    stars = "★" * exercise.difficulty + "☆" * (3 - exercise.difficulty)
    return f"### {_KINDS[exercise.kind]} · {stars} · {exercise.minutes} minutes\n\n{exercise.task}"


def check_source(exercise: Exercise) -> str:
    """The check cell of an exercise."""
    return f'exercises.check(paper, "{exercise.id}", {exercise.id})'


def generated_sources(entry: Paper) -> dict[str, str]:
    """Cell id -> source of every cell that ``paperlab sync`` writes."""
    sources = {"title": title_source(entry), "setup": setup_source(entry), "next": next_source(entry)}
    for exercise in entry.module().exercises():
        sources[f"exercise-{exercise.id}-task"] = task_source(exercise)
        sources[f"exercise-{exercise.id}-check"] = check_source(exercise)
    return sources


def normal_form(notebook: NotebookNode) -> NotebookNode:
    """The notebook as it is stored: no outputs, no counts, no widget state, no metadata but tags and hidden sources."""
    result = nbformat.v4.new_notebook(metadata=_METADATA)
    result.nbformat_minor = 5
    for cell in notebook.cells:
        tags = sorted(cell.metadata.get("tags", ()))
        metadata: dict = {"tags": tags} if tags else {}
        if "solution" in tags:
            metadata["jupyter"] = {"source_hidden": True}
        make = nbformat.v4.new_code_cell if cell.cell_type == "code" else nbformat.v4.new_markdown_cell
        result.cells.append(make(cell.source.rstrip(), id=cell.id, metadata=metadata))
    return result


def to_text(notebook: NotebookNode) -> str:
    """The file's text, with stable formatting."""
    return nbformat.writes(notebook, version=4).rstrip("\n") + "\n"
