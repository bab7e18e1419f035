"""What a student does in JupyterLab, as functions."""

import time
from collections.abc import Callable

from playwright.sync_api import Locator, Page


def wait_for(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    """Wait until ``condition()`` is true; fail naming ``what`` if it does not become so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.1)


def run_all(page: Page) -> None:
    """Choose Run, Run All Cells, and wait until no cell is running or waiting."""
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
    idle = page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]')
    wait_for(lambda: idle.count() > 0, "the kernel to be ready")
    page.locator(".lm-MenuBar-itemLabel", has_text="Run").first.click()
    page.locator(".lm-Menu-itemLabel").get_by_text("Run All Cells", exact=True).click()
    # text_content also reads cells that are scrolled out of sight. Between two cells the kernel is idle for a moment.
    prompts = page.locator(".jp-Notebook .jp-CodeCell .jp-InputPrompt")
    quiet_since = time.monotonic()

    def quiet() -> bool:
        nonlocal quiet_since
        if idle.count() == 0 or any("*" in text for text in prompts.all_text_contents()):
            quiet_since = time.monotonic()
        return time.monotonic() - quiet_since > 3

    wait_for(quiet, "the last cell to end", 120)


def assert_no_error_output(page: Page) -> None:
    for kind in ("application/vnd.jupyter.error", "application/vnd.jupyter.stderr"):
        shown = page.locator(f'[data-mime-type="{kind}"]').all_inner_texts()
        assert not [text for text in shown if text.strip()], shown


def drawn(explorer: Locator) -> str:
    """What the picture shows: its curves and marks as SVG, and the pixels of its heat maps and surfaces."""
    return explorer.locator(".js-plotly-plot").first.evaluate(
        """plot => plot.querySelector('.main-svg').innerHTML.replace(/clip[\\w-]+/g, '')
            + [...plot.querySelectorAll('canvas')].map(canvas => canvas.toDataURL()).join()"""
    )


def sentence(explorer: Locator) -> str:
    return explorer.locator('p[role="status"][aria-live]').inner_text()


def move_every_control(page: Page, explorer: Locator) -> None:
    """From the keyboard: focus a control, press keys, and see both picture and sentence change."""
    controls = explorer.locator(".noUi-handle, select, input[type=checkbox]")
    count = controls.count()
    assert count > 0
    for number in range(count):
        control = controls.nth(number)
        # One end of a slider may be the default itself, so both are tried.
        assert any(_changes(page, explorer, control, key) for key in ("Home", "End", "Space")), (
            f"control {number}: the keyboard changes no picture or no sentence"
        )
        assert "failed" not in sentence(explorer)


def _changes(page: Page, explorer: Locator, control: Locator, key: str) -> bool:
    before = drawn(explorer), sentence(explorer)
    control.focus()
    page.keyboard.press(key)
    end = time.monotonic() + 4
    while time.monotonic() < end:
        if drawn(explorer) != before[0] and sentence(explorer) != before[1]:
            return True
        time.sleep(0.1)
    return False
