"""Notebook runs held to their budget: CPU seconds and peak memory of each kernel. Loaded by ``make test``."""

import os
from collections import defaultdict
from pathlib import Path

import psutil
import pytest

from paperlab.catalog import ROOT, papers

# One notebook, the mean over a family, and the memory that three open notebooks leave free on Binder.
MOST_SECONDS, MOST_MEAN_SECONDS, MOST_BYTES = 20.0, 12.0, 1.0e9
_costs: dict[str, tuple[float, float]] = {}


def pytest_sessionstart(session: pytest.Session) -> None:
    # Warnings are errors in the kernels. Set after this process has started, so that only its children see it: pytest
    # itself trips on the ResourceWarnings of its own sockets. The controller must not hand it to the workers.
    if hasattr(session.config, "workerinput") or not session.config.getoption("numprocesses", None):
        os.environ["PYTHONWARNINGS"] = "error"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """After a notebook's last cell, measure its kernel while it still lives."""
    if nextitem is not None and nextitem.parent is item.parent:
        return
    process = psutil.Process(item.parent.kernel.km.provisioner.pid)
    times = process.cpu_times()
    status = Path(f"/proc/{process.pid}/status")
    if status.exists():  # Linux knows the peak; elsewhere the present size has to do
        peak = next(int(row.split()[1]) * 1024 for row in status.read_text().splitlines() if row.startswith("VmHWM"))
    else:
        peak = process.memory_info().rss
    item.user_properties.append(("notebook", (str(item.path), times.user + times.system, peak)))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    for path, seconds, peak in (value for key, value in report.user_properties if key == "notebook"):
        _costs[Path(path).relative_to(ROOT / "notebooks").with_suffix("").as_posix()] = (seconds, peak)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.section("the most expensive notebooks: CPU seconds and peak memory of the kernel")
    for name, (seconds, peak) in sorted(_costs.items(), key=lambda cost: -cost[1][0])[:10]:
        terminalreporter.write_line(f"{seconds:6.1f} s {peak / 1e6:6.0f} MB  {name}")
    for line in over_budget(_costs):
        terminalreporter.write_line(line, red=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput") and over_budget(_costs):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def over_budget(costs: dict[str, tuple[float, float]]) -> list[str]:
    """One line for each notebook or family over its limit, from ``{"family/id": (CPU seconds, peak bytes)}``."""
    lines, families = [], defaultdict(list)
    for name, (seconds, peak) in costs.items():
        families[name.split("/")[0]].append(seconds)
        if seconds > MOST_SECONDS:
            lines.append(f"{name}: {seconds:.1f} CPU seconds, the limit is {MOST_SECONDS:.0f}: shrink the experiment")
        if peak > MOST_BYTES:
            lines.append(f"{name}: {peak / 1e9:.2f} GB, the limit is {MOST_BYTES / 1e9:.1f} GB")
    for family, seconds in families.items():
        # The mean is the family's once it is complete: one unit alone may take more than its share.
        mean = sum(seconds) / len(seconds)
        if len(seconds) == len(papers(family)) and mean > MOST_MEAN_SECONDS:
            lines.append(f"{family}: {mean:.1f} CPU seconds in the mean, the limit is {MOST_MEAN_SECONDS:.0f}")
    return lines
