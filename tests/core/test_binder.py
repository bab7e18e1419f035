"""What Binder would build: the same environment as here, and a start on the index."""

import os
import subprocess
import sys
import tomllib

from packaging.requirements import Requirement

from paperlab.catalog import ROOT

BINDER = ROOT / "binder"


def constraints() -> dict[str, list[Requirement]]:
    """The locked versions, by package."""
    rows = (ROOT / "constraints.txt").read_text().splitlines()
    locked: dict[str, list[Requirement]] = {}
    for row in rows:
        if row and not row.startswith("#"):
            locked.setdefault(canonical(Requirement(row).name), []).append(Requirement(row))
    return locked


def canonical(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def test_repo2docker_recognises_it():
    """Without Docker: repo2docker prints the Dockerfile that it would build."""
    command = [sys.executable, "-m", "repo2docker", "--no-build", "--debug", "."]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    dockerfile = done.stdout + done.stderr
    assert 'pip install --no-cache-dir -r "binder/requirements.txt"' in dockerfile
    assert "environment.py-3.11" in dockerfile.replace("-2d", "-").replace("-2e", ".").replace("-5f", "_")
    assert 'R2D_ENTRYPOINT="${REPO_DIR}/binder/start"' in dockerfile
    # The requirements name local files, so they are installed after the repository is copied.
    assert dockerfile.index("COPY --chown=0:0 src/ ${REPO_DIR}/") < dockerfile.index("pip install --no-cache-dir -r")


def test_binder_installs_pyproject_in_the_locked_versions():
    """binder/requirements.txt holds no versions of its own, so it cannot drift from pyproject.toml."""
    rows = (BINDER / "requirements.txt").read_text().splitlines()
    assert [row for row in rows if not row.startswith("#")] == [
        "--extra-index-url https://download.pytorch.org/whl/cpu",
        "--constraint ../constraints.txt",
        "--editable .",
    ]
    makefile = (ROOT / "Makefile").read_text()
    assert "https://download.pytorch.org/whl/cpu" in makefile


def test_every_dependency_is_locked_to_a_version_it_allows():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = constraints()
    for text in [*project["dependencies"], *project["optional-dependencies"]["test"]]:
        wanted = Requirement(text)
        for lock in locked[canonical(wanted.name)]:
            (version,) = (clause.version for clause in lock.specifier)
            assert wanted.specifier.contains(version), f"{wanted} does not allow {lock}: renew constraints.txt"
    assert locked["jsonschema"][0].specifier.contains("4.24.1")
    assert not any(name.startswith(("nvidia", "cuda", "triton")) for name in locked), "CUDA packages are never locked"
    assert {str(lock) for lock in locked["torch"]} == {
        'torch==2.13.0+cpu; sys_platform == "linux"',
        'torch==2.13.0; sys_platform != "linux"',
    }


def test_start_sets_threads_and_passes_the_command_on():
    assert os.access(BINDER / "start", os.X_OK)
    command = [str(BINDER / "start"), "bash", "-c", "echo $OMP_NUM_THREADS $JUPYTERHUB_DEFAULT_URL"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "1 /lab/tree/notebooks/index.ipynb\n"
