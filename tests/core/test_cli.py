"""The command ``paperlab``, as a user types it."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from paperlab import audit, cli
from paperlab.claims import Claim, Control

runner = CliRunner()


def run(*arguments: str):
    return runner.invoke(cli.app, list(arguments))


def test_list():
    done = run("list")
    assert done.exit_code == 0
    assert re.search(r"✓ transport +sinkhorn_newton_sparse", done.output)
    assert done.output.strip().endswith("of 314 are there")
    missing = run("list", "--family", "transport", "--missing").output
    assert "sinkhorn_newton_sparse" not in missing
    rows = json.loads(run("list", "--json").output)
    assert len(rows) == 314
    assert {"id", "family", "title", "there"} == set(rows[0])


def test_show():
    done = run("show", "sinkhorn_newton_sparse")
    assert "Accelerating Sinkhorn Algorithm" in done.output
    assert "notebooks/transport/sinkhorn_newton_sparse.ipynb" in done.output
    assert "no unit yet" in run("show", "megablocks").output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "sinkhorn_newton"], "did you mean sinkhorn_newton_sparse"),
        (["lab", "sinkhorn_newton"], "did you mean sinkhorn_newton_sparse"),
        (["lab", "megablocks"], "has no notebook yet"),
        (["list", "--family", "transprot"], "did you mean transport"),
        (["check"], "nothing to check"),
        (["check", "megablocks"], "has no unit yet"),
        (["check", "sinkhorn_newton_sparse", "--seeds", "3"], "not a range"),
        (["check", "sinkhorn_newton_sparse", "--seeds", "3:3"], "not a range"),
        (["new", "transprot", "x"], "did you mean transport"),
        (["new", "transport", "My-Paper"], "lower-case Python name"),
        (["new", "transport", "adabelief"], "belongs to the family optimizers"),
        (["new", "transport", "sinkhorn_newton_sparse"], "exists already"),
    ],
)
def test_wrong_words_are_answered(arguments, words):
    done = run(*arguments)
    assert done.exit_code == 2
    assert words in done.output


def test_lab_passes_options_on(monkeypatch):
    commands = []
    monkeypatch.setattr("os.execv", lambda program, arguments: commands.append(arguments))
    run("lab", "--no-browser", "--port", "8890")
    run("lab", "sinkhorn_newton_sparse", "--no-browser")
    assert " ".join(commands[0]).count("--no-browser --port 8890") == 1
    assert any(word.endswith("notebooks/index.ipynb") for word in commands[0])
    assert any(word.endswith("transport/sinkhorn_newton_sparse.ipynb") for word in commands[1])


def fake_paper(measured_at, control_at):
    """A paper whose numbers are given as functions of the seed."""

    def claim(seed):
        control = Control("k", control_at(seed), "baseline")
        return Claim("c", "s", "t", "q", "", measured_at(seed), "<=", 5.0, control)

    module = SimpleNamespace(experiment=lambda seed: seed, claims=lambda seed: (claim(seed),))
    return lambda id: SimpleNamespace(module=lambda: module)


@pytest.mark.parametrize(
    ("measured", "control", "code", "words"),
    [
        (lambda seed: 1.0, lambda seed: 9.0, 0, "2/2"),
        (lambda seed: 1.0 + 5 * seed, lambda seed: 9.0, 1, "seed 1: c: does not hold"),
        (lambda seed: 1.0, lambda seed: 4.0, 1, "the control does as well"),
        (lambda seed: np.nan, lambda seed: 9.0, 1, "measured=nan is not finite"),
    ],
)
def test_check_exits_1_when_anything_falls_short(monkeypatch, tmp_path, measured, control, code, words):
    monkeypatch.setattr(audit, "paper", fake_paper(measured, control))
    file = tmp_path / "trials.json"
    done = run("check", "sinkhorn_newton_sparse", "--seeds", "0:2", "--jobs", "1", "--json", str(file))
    assert done.exit_code == code
    assert words in done.output
    assert [row["seed"] for row in json.loads(file.read_text())] == [0, 1]
