"""The command ``paperlab``."""

import json
import math
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from paperlab.catalog import LEVELS, ROOT, Paper, paper, papers

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
Family = Annotated[str | None, typer.Option(help="only this family")]


@app.command(context_settings={"ignore_unknown_options": True})
def lab(arguments: Annotated[list[str] | None, typer.Argument(metavar="[ID] [JUPYTER OPTIONS]")] = None) -> None:
    """Open JupyterLab on the index, or on the notebook of a paper; options go to JupyterLab."""
    options = list(arguments or ())
    place = ROOT / "notebooks" / "index.ipynb"
    if options and not options[0].startswith("-"):
        place = _paper(options.pop(0)).notebook_path
        if not place.exists():
            _stop(f"{place.stem} has no notebook yet; `paperlab list` shows what is there")
    if os.geteuid() == 0 and "--allow-root" not in options:
        options.append("--allow-root")  # containers run as root, where JupyterLab would refuse to start
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={ROOT}", str(place), *options]
    os.execv(sys.executable, command)


@app.command("list")
def list_(
    family: Family = None,
    missing: Annotated[bool, typer.Option("--missing", help="only papers without a unit")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False,
) -> None:
    """All papers: what is there and what is missing."""
    rows = [entry for entry in _papers(family) if not (missing and entry.is_there)]
    if as_json:
        typer.echo(json.dumps([{"id": p.id, "family": p.family, "title": p.title, "there": p.is_there} for p in rows]))
        return
    for entry in rows:
        typer.echo(f"{'✓' if entry.is_there else '·'} {entry.family:<13} {entry.id:<32} {entry.title}")
    if not missing:
        typer.echo(f"{sum(entry.is_there for entry in rows)} of {len(rows)} are there")


@app.command()
def show(id: str) -> None:
    """What is known of one paper."""
    entry = _paper(id)
    typer.echo(entry.title)
    typer.echo(entry.citation)
    typer.echo(f"family {entry.family}; {'has a unit' if entry.is_there else 'no unit yet'}")
    if entry.claim:
        typer.echo(f"claim: {entry.claim}")
        typer.echo(f"level {entry.level} ({LEVELS[entry.level]}), {entry.minutes} minutes")
        typer.echo(f"needs: {', '.join(entry.needs) or 'nothing special'}")
    for link in entry.related:
        typer.echo(f"{link.how}: {link.paper}")
    if entry.is_there:
        for path in (entry.module_path, entry.notebook_path, entry.test_path):
            typer.echo(str(path.relative_to(ROOT)))


@app.command()
def check(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...")] = None,
    family: Family = None,
    everything: Annotated[bool, typer.Option("--all", help="all papers that are there")] = False,
    seeds: Annotated[str, typer.Option(help="half-open range of seeds, first:end")] = "0:10",
    jobs: Annotated[int, typer.Option(help="parallel processes; -1: one a core")] = -1,
    file: Annotated[Path | None, typer.Option("--json", help="write all trials to this file")] = None,
) -> None:
    """Check the claims of papers on a range of seeds; exit 1 when anything falls short."""
    from paperlab.audit import audit

    chosen = [_paper(id) for id in ids or ()]
    if family or everything:
        chosen += [entry for entry in _papers(family) if entry.is_there and entry not in chosen]
    if not chosen:
        _stop("nothing to check: name papers, --family F or --all")
    for entry in chosen:
        if not entry.is_there:
            _stop(f"{entry.id} has no unit yet")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    trials = audit([entry.id for entry in chosen], _seeds(seeds), jobs)
    typer.echo(f"{'paper':<32} {'claims held':>12} {'controls failed':>16} {'worst margin':>13} {'CPU s a seed':>13}")
    for entry in chosen:
        own = [row for row in trials if row.paper == entry.id]
        held, total = sum(row.held for row in own), sum(row.claims for row in own)
        failed = sum(row.controls_failed for row in own)
        worst = min(own, key=lambda row: row.worst_margin)
        margin = f"{worst.worst_margin:.2f}" if math.isfinite(worst.worst_margin) else "none"
        typer.echo(
            f"{entry.id:<32} {f'{held}/{total}':>12} {f'{failed}/{total}':>16} {margin:>13} "
            f"{sum(row.cpu_seconds for row in own) / len(own):>13.1f}"
        )
        typer.echo(f"    worst: {worst.worst_claim} at seed {worst.seed}")
        for words in (words for row in own for words in row.shortfalls):
            typer.echo(f"    {words}")
    if file:
        file.write_text(json.dumps([row.asdict() for row in trials], indent=1) + "\n")
    if any(row.shortfalls for row in trials):
        raise typer.Exit(1)


@app.command()
def new(family: str, id: str) -> None:
    """Lay out a paper's module, notebook, test and catalog entry; then `make test PAPER=ID` says what is missing."""
    from paperlab.authoring.scaffold import lay_out

    try:
        paths = lay_out(family, id)
    except ValueError as error:
        _stop(str(error))
    for path in paths:
        typer.echo(f"wrote {path.relative_to(ROOT)}")
    typer.echo(f"fill them in, in this order; `make test PAPER={id}` says what is missing (CONTRIBUTING: A paper)")


@app.command()
def sync(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="draw these previews anew")] = None,
    only_check: Annotated[bool, typer.Option("--check", help="change nothing; exit 1 if something would")] = False,
) -> None:
    """Write what is generated: title, task and "Where next" cells, the normal form of notebooks, index and previews."""
    from paperlab.authoring.sync import synchronise

    changed = synchronise([_paper(id) for id in ids or ()], write=not only_check)
    for path in changed:
        typer.echo(f"{'out of date' if only_check else 'wrote'}: {path.relative_to(ROOT)}")
    if only_check and changed:
        typer.echo("run `make sync`")
        raise typer.Exit(1)


def _paper(id: str) -> Paper:
    try:
        return paper(id)
    except ValueError as error:
        _stop(str(error))


def _papers(family: str | None) -> tuple[Paper, ...]:
    try:
        return papers(family)
    except ValueError as error:
        _stop(str(error))


def _seeds(text: str) -> range:
    first, _, end = text.partition(":")
    if not (first.isdigit() and end.isdigit() and int(first) < int(end)):
        _stop(f"--seeds {text!r} is not a range such as 0:10")
    return range(int(first), int(end))


def _stop(message: str) -> None:
    typer.echo(message, err=True)
    raise typer.Exit(2)
