"""Which units a change touches: their own files, or a module of ``paperlab`` that they import."""

import ast
import subprocess
from functools import cache
from pathlib import Path

from paperlab.catalog import ROOT, Paper, papers


def changed_units() -> list[Paper]:
    """Units with a changed file among their own and those that their module imports, directly or not."""
    changed = changed_files()
    return [
        unit
        for unit in papers()
        if unit.is_there
        and changed & {unit.notebook_path, unit.test_path, unit.module_path, *imported_files(unit.module_path)}
    ]


def changed_files() -> set[Path]:
    """Files that differ from what the remote's main branch had, or from HEAD without a remote; untracked ones too."""
    base = _git("merge-base", "HEAD", "origin/main") or ["HEAD"]
    names = _git("diff", "--name-only", base[0]) + _git("ls-files", "--others", "--exclude-standard")
    return {ROOT / name for name in names}


@cache
def imported_files(path: Path) -> frozenset[Path]:
    """The files of ``paperlab`` that a module imports, directly or not."""
    found, waiting = set(), [path]
    while waiting:
        for node in ast.walk(ast.parse(waiting.pop().read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            else:
                continue
            for name in names:
                file = _file(name)
                if file and file not in found:
                    found.add(file)
                    waiting.append(file)
    return frozenset(found)


def _file(module: str) -> Path | None:
    if module.split(".")[0] != "paperlab":
        return None
    place = ROOT.joinpath(*module.split("."))
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.exists()), None)


def _git(*arguments: str) -> list[str]:
    # No remote, or no repository at all, is an empty answer.
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.splitlines() if done.returncode == 0 else []
