"""``paperlab new``: the four files of a paper, filled with what does not depend on it."""

import textwrap
from pathlib import Path
from string import Template

import nbformat
import tomlkit

from paperlab.authoring.notebook import EXERCISE_PARTS, SECTIONS, normal_form, setup_source, to_text
from paperlab.catalog import CATALOG, FAMILIES, LEVELS, RELATIONS, ROOT, Paper, nearest, papers

_TEMPLATES = Path(__file__).parent / "templates"
# What an author replaces. The contract tests look for it.
PLACEHOLDER = "<...>"
_EXERCISES = {"first_exercise": "implement", "second_exercise": "experiment", "third_exercise": "think"}


def lay_out(family: str, id: str) -> list[Path]:
    """Write module, notebook, test and catalog entry of a paper, and return their paths; nothing is overwritten.

    Raises ``ValueError`` if the family is unknown, the id is not a Python name or belongs to another family, or a file
    exists already.
    """
    if family not in FAMILIES:
        raise ValueError(f"family={family!r} is unknown; {nearest(family, FAMILIES)}")
    if not id.isidentifier() or id != id.lower():
        raise ValueError(f"id={id!r} must be a lower-case Python name, such as my_paper")
    known = {entry.id: entry for entry in papers()}
    entry = known.get(id, Paper(id, family, title=PLACEHOLDER))
    if entry.family != family:
        raise ValueError(f"id={id!r} belongs to the family {entry.family}, not to {family}")
    for path in (entry.module_path, entry.notebook_path, entry.test_path):
        if path.exists():
            raise ValueError(f"{path.relative_to(ROOT)} exists already")

    reference = textwrap.fill(f"Reference: {entry.citation or PLACEHOLDER}: {entry.title}.", 118)
    values = {"family": family, "id": id, "reference": reference, "placeholder": PLACEHOLDER}
    texts = {
        entry.module_path: _fill("module.py.txt", values),
        entry.test_path: _fill("test.py.txt", values),
        entry.notebook_path: to_text(normal_form(_notebook(entry))),
    }
    package = entry.module_path.parent / "__init__.py"
    if not package.exists():
        texts[package] = f'"""Papers of the family ``{family}``."""\n'
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return [*texts, _extend_catalog(family, id)]


def _fill(template: str, values: dict[str, str]) -> str:
    return Template((_TEMPLATES / template).read_text(encoding="utf-8")).substitute(values)


def _notebook(entry: Paper) -> nbformat.NotebookNode:
    def cell(kind: str, id: str, source: str, *tags: str):
        make = nbformat.v4.new_code_cell if kind == "code" else nbformat.v4.new_markdown_cell
        return make(source, id=id, metadata={"tags": list(tags)} if tags else {})

    cells = [cell("text", "title", "Written by `make sync`."), cell("code", "setup", setup_source(entry))]
    starts = {
        "predict": f'predict("{PLACEHOLDER}", "{PLACEHOLDER}", ["{PLACEHOLDER}", "another"])',
        "algorithm": "show_source(paper.method)",
        "play": "paper.explorer()",
        "claim": "result = paper.experiment()\npaper.figure(result)",
    }
    for section, heading in SECTIONS.items():
        cells.append(cell("text", section, f"## {heading}\n\n{PLACEHOLDER}"))
        if section in starts:
            cells.append(cell("code", f"{section}-run", starts[section]))
        if section == "claim":
            cells.append(cell("code", "claim-check", "check(paper.claims(result))", "lecture"))
        if section == "exercises":
            for name, kind in _EXERCISES.items():
                stub = f'def {name}(x):\n    """{PLACEHOLDER}"""\n    ...' if kind == "implement" else f"{name} = ..."
                if kind == "implement":
                    solution = f'def {name}_solution(x):\n    """{PLACEHOLDER}"""\n\n\n'
                else:
                    solution = f'{name}_solution = "{PLACEHOLDER}"\n'
                sources = {
                    "task": "Written by `make sync`.",
                    "stub": stub,
                    "check": "Written by `make sync`.",
                    "hint": f"<details><summary>Hint</summary>\n\n{PLACEHOLDER}\n\n</details>",
                    "solution": solution + f'exercises.check(paper, "{name}", {name}_solution).require()',
                }
                for part in EXERCISE_PARTS:
                    tags = [part] if part in ("stub", "hint", "solution") else []
                    kind_of_cell = "text" if part in ("task", "hint") else "code"
                    cells.append(cell(kind_of_cell, f"exercise-{name}-{part}", sources[part], *tags))
    return nbformat.v4.new_notebook(cells=cells)


def _extend_catalog(family: str, id: str) -> Path:
    path = CATALOG / f"{family}.toml"
    document = tomlkit.parse(path.read_text(encoding="utf-8"))
    entries = document["paper"]
    entry = next((entry for entry in entries if entry["id"] == id), None)
    if entry is None:
        entry = tomlkit.table()
        entry.update({"id": id, "title": PLACEHOLDER})
        entries.append(entry)
    entry["claim"] = PLACEHOLDER
    entry["level"] = 1
    entry["level"].comment("; ".join(f"{level}: {words.split(':')[0]}" for level, words in LEVELS.items()))
    entry["minutes"] = 45
    entry["needs"] = [PLACEHOLDER]
    entry["related"] = tomlkit.array()
    entry["related"].comment(f'such as {{ paper = "an_id", how = "{RELATIONS[0]}" }}; or {", ".join(RELATIONS[1:])}')
    path.write_text(tomlkit.dumps(document), encoding="utf-8")
    return path
