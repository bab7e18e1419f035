"""Every unit keeps the contract: what the design asks of all of them, checked on each that is there."""

import importlib.util

import pytest
import torch
from threadpoolctl import threadpool_limits

from paperlab.authoring.sync import notebook_text
from paperlab.catalog import FAMILIES, ROOT, papers
from tests.plugins import contract


def test_files(unit):
    contract.assert_files(unit)


def test_catalog_entry(unit):
    contract.assert_catalog_entry(unit)


def test_module_anatomy(unit):
    contract.assert_module_anatomy(unit)


def test_notebook_anatomy(unit):
    notebook = contract.read_notebook(unit)
    contract.assert_notebook_anatomy(unit, notebook)
    contract.assert_exercise_cells(unit, notebook, unit.module().exercises())


def test_notebook_is_as_stored(unit):
    stored = unit.notebook_path.read_text(encoding="utf-8")
    assert stored == notebook_text(unit), "run `make sync`: outputs, metadata or generated cells are out of date"


def test_claims(unit, request):
    """At a seed that rotates; on ten seeds for changed units."""
    changed = request.config.getoption("--changed")
    for seed in range(10) if changed else [contract.rotating_seed(unit.id)]:
        rows = unit.module().claims(contract.measured(unit.id, seed))
        contract.assert_claims(rows, seed)
    contract.assert_predictions(unit, contract.read_notebook(unit), rows)


def test_same_numbers_with_two_threads(unit):
    """At the seed that rotates, of which `test_claims` has left a result; seed 0 runs in the notebook."""
    seed = contract.rotating_seed(unit.id)
    threads = torch.get_num_threads()
    with threadpool_limits(limits=2):
        torch.set_num_threads(2)
        try:
            two = unit.module().experiment(seed)
        finally:
            torch.set_num_threads(threads)
    contract.assert_same(contract.measured(unit.id, seed), two)


def test_exercises(unit):
    contract.assert_exercises(unit.module().exercises())


def test_slips_are_caught(unit):
    spec = importlib.util.spec_from_file_location(f"slips_of_{unit.id}", unit.test_path)
    tests = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tests)
    contract.assert_slips_are_caught(unit, tests)


def test_bad_input_is_tested(unit):
    contract.assert_bad_input_is_tested(unit)


def test_explorer(unit, request):
    explorer = unit.module().explorer()
    every = request.config.getoption("--every-state")
    contract.assert_explorer(explorer, explorer.states() if every else explorer.ends())


def test_figure(unit):
    contract.assert_figure(unit.module().figure(contract.measured(unit.id, contract.rotating_seed(unit.id))))


@pytest.mark.parametrize("family", FAMILIES)
def test_family_folders_hold_papers_only(family):
    strangers = contract.strangers(family)
    assert not strangers, f"{strangers} belong to no paper of {family}; shared numerics live in paperlab/tools"


def test_no_unit_without_a_catalog_entry():
    folders = {path.name for path in (ROOT / "paperlab").iterdir() if path.is_dir() and not path.name.startswith("_")}
    others = {"authoring", "catalog", "figures", "jupyter", "tools", "widgets"}
    assert folders - others <= set(FAMILIES), f"{folders - others - set(FAMILIES)} is no family"
    previews = {path.stem for path in (ROOT / "notebooks" / "previews").glob("*.png")}
    explorers = {
        f"explorer_{name}" for name in ("collapse", "landscape", "sharpness", "transport")
    }  # the pictures in README
    units = {unit.id for unit in papers() if unit.is_there}
    assert previews - explorers == units, "run `make sync` for new previews; delete those of papers that are gone"
