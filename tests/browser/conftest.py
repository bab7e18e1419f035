"""JupyterLab on a free port and headless Chromium, shared by the browser tests."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from paperlab.catalog import ROOT

_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
# A second start of `make lab` listens within this time; starting is I/O, so the clock is the measure here.
STARTS_WITHIN_SECONDS = 5.0


class Lab:
    """A running JupyterLab: ``paperlab lab`` itself, or one on another folder of notebooks, and its time to listen."""

    def __init__(self, root: Path | None = None):
        self.root, self.visits = root, 0
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        start = time.perf_counter()
        options = ["--no-browser", "--port", str(self.port), "--IdentityProvider.token=test"]
        program = ["jupyterlab", "--allow-root", f"--ServerApp.root_dir={root}"] if root else ["paperlab", "lab"]
        command = [sys.executable, "-m", *program, *options]
        environment = dict(os.environ)
        if root:  # tabs and settings of the reader's own JupyterLab stay out of it
            for name in ("WORKSPACES", "SETTINGS"):
                environment[f"JUPYTERLAB_{name}_DIR"] = str(root / name.lower())
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while time.perf_counter() - start < 60:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=0.2).close()
                break
            except OSError:
                time.sleep(0.05)
        self.seconds = time.perf_counter() - start

    def address(self, path: str) -> str:
        """The address of a notebook, in a workspace of its own: JupyterLab would restore the tabs of the last visit."""
        self.visits += 1
        return f"http://127.0.0.1:{self.port}/lab/workspaces/visit{self.visits}/tree/{path}?token=test"

    def shut_kernels_down(self) -> None:
        """End all kernels: the next visit starts its own, as a reader's first one does."""
        address = f"http://127.0.0.1:{self.port}/api/sessions"
        headers = {"Authorization": "token test"}
        with urlopen(Request(address, headers=headers)) as answer:
            sessions = json.load(answer)
        for session in sessions:
            urlopen(Request(f"{address}/{session['id']}", headers=headers, method="DELETE")).close()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=20)


@pytest.fixture(scope="session")
def lab(tmp_path_factory) -> Iterator[Lab]:
    """On a copy of the notebooks, so that JupyterLab's autosave writes no outputs into the repository."""
    root = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", root / "notebooks")
    running = Lab(root)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=_FLAGS)
        yield launched
        launched.close()


class Visit(Page):
    """Only for annotations: a page that remembers what went wrong."""

    complaints: list[str]
    hosts: set[str]


@pytest.fixture
def page(lab: Lab, browser: Browser) -> Iterator[Visit]:
    """A page that records console errors, uncaught exceptions and the hosts it asked."""
    opened = browser.new_page(viewport={"width": 1300, "height": 1000})
    opened.complaints, opened.hosts = [], set()
    opened.on("console", lambda message: opened.complaints.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: opened.complaints.append(str(error)))
    opened.on("request", lambda request: opened.hosts.add(request.url.split("/")[2].split(":")[0]))
    yield opened
    opened.close()
    lab.shut_kernels_down()
