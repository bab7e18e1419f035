"""Which units ``make test CHANGED=1`` picks."""

from paperlab.catalog import ROOT, paper
from tests.plugins import changes

UNIT = paper("sinkhorn_newton_sparse")


def test_imports_are_followed():
    files = {path.relative_to(ROOT).as_posix() for path in changes.imported_files(UNIT.module_path)}
    # Directly, through another tool, and inside figure().
    assert {"paperlab/tools/sinkhorn.py", "paperlab/arguments.py", "paperlab/figures/curves.py"} <= files
    assert "paperlab/tools/neural_collapse.py" not in files


def test_a_unit_is_picked_by_its_files_and_its_tools(monkeypatch):
    for path in (UNIT.notebook_path, UNIT.test_path, UNIT.module_path, ROOT / "paperlab/tools/sinkhorn.py"):
        monkeypatch.setattr(changes, "changed_files", lambda path=path: {path})
        assert UNIT in changes.changed_units()
    monkeypatch.setattr(changes, "changed_files", lambda: {ROOT / "paperlab/tools/neural_collapse.py"})
    assert [unit.id for unit in changes.changed_units()] == ["perturbed_collapse"]
    monkeypatch.setattr(changes, "changed_files", lambda: {ROOT / "README.md"})
    assert changes.changed_units() == []
