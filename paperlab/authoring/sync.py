"""``paperlab sync``: everything that follows from the catalog and the units, written in one place."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import nbformat

from paperlab.authoring.notebook import generated_sources, normal_form, to_text
from paperlab.catalog import LEVELS, ROOT, Paper, families, papers

INDEX = ROOT / "notebooks" / "index.ipynb"


def synchronise(redraw: Sequence[Paper] = (), *, write: bool = True) -> list[Path]:
    """Bring notebooks, index and previews up to date; the files that changed, or with ``write=False`` would.

    Previews are drawn when they are missing, and for the papers in ``redraw``.
    """
    texts = {unit.notebook_path: notebook_text(unit) for unit in papers() if unit.notebook_path.exists()}
    texts[INDEX] = index_text()
    changed = [path for path, text in texts.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    undrawn = [unit for unit in papers() if unit.is_there and (unit in redraw or not unit.preview_path.exists())]
    if write:
        for path in changed:
            path.write_text(texts[path], encoding="utf-8")
        draw_previews(undrawn)
    return changed + [unit.preview_path for unit in undrawn]


def notebook_text(unit: Paper) -> str:
    """The unit's notebook with its generated cells written anew, in normal form."""
    notebook = nbformat.read(unit.notebook_path, as_version=4)
    sources = generated_sources(unit)
    for cell in notebook.cells:
        cell.source = sources.get(cell.id, cell.source)
    return to_text(normal_form(notebook))


def index_text() -> str:
    """The visual index: families with previews, papers in teaching order, what is there linked."""
    there = sum(entry.is_there for entry in papers())
    levels = "\n".join(f"- level {level}: {words}" for level, words in LEVELS.items())
    cells = [
        (
            "title",
            f"# PaperLab\n\nMachine-learning papers that you can touch: {there} of {len(papers())} are here. Click a "
            "title. In a notebook choose *Run, Run All Cells*, make your prediction, then move the controls.\n\n"
            f"{levels}\n\nOn Binder, work is lost after ten idle minutes, and memory lasts for three open notebooks: "
            "*File, Save*, download what you want to keep, and *Kernel, Shut Down Kernel* when you leave a notebook.",
        )
    ]
    for family in families():
        entries = papers(family.id)
        units = [entry for entry in entries if entry.is_there]
        rest = [entry for entry in entries if not entry.is_there]
        body = [f"## {family.title}\n\n{family.about}"]
        body += [_index_entry(unit) for unit in units]
        if rest:
            titles = " · ".join(entry.title for entry in rest)
            words = f"<details><summary>{len(rest)} not yet here</summary>\n\n{titles}\n\n</details>"
            body.append(words)
        cells.append((family.id, "\n\n".join(body)))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text, id=id) for id, text in cells])
    return to_text(normal_form(notebook))


def _index_entry(unit: Paper) -> str:
    link = f"{unit.family}/{unit.id}.ipynb"
    return (
        f'<a href="{link}"><img src="previews/{unit.id}.png" alt="Preview: {unit.claim}" width="420"></a>\n\n'
        f"**[{unit.title}]({link})** · level {unit.level} · {unit.minutes} minutes\n\n{unit.claim}"
    )


def draw_previews(units: Iterable[Paper]) -> None:
    """Draw the picture of each unit's experiment at seed 0, with one Kaleido server for all: it starts slowly."""
    units = list(units)
    if not units:
        return
    import kaleido

    kaleido.start_sync_server(n=1)
    try:
        for unit in units:
            module = unit.module()
            figure = module.figure(module.experiment(0))
            size = {"format": "png", "width": 860, "height": figure.layout.height or 460, "scale": 1}
            unit.preview_path.parent.mkdir(parents=True, exist_ok=True)
            unit.preview_path.write_bytes(kaleido.calc_fig_sync(figure.to_dict(), opts=size))
    finally:
        kaleido.stop_sync_server()
