"""What a student does in JupyterLab, as functions."""

import re
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
    # text_content also reads cells that are scrolled out of sight.
    prompts = page.locator(".jp-Notebook .jp-CodeCell .jp-InputPrompt")
    # A slow server makes JupyterLab ask for the kernel, and a click before it is there is lost: answer, click again.
    for _ in range(10):
        question = page.locator(".jp-Dialog .jp-mod-accept")
        if question.count() > 0:
            question.first.click()
        page.locator(".lm-MenuBar-itemLabel", has_text="Run").first.click()
        page.locator(".lm-Menu-itemLabel").get_by_text("Run All Cells", exact=True).click()
        page.wait_for_timeout(3000)
        if any(re.search(r"[\d*]", text) for text in prompts.all_text_contents()):
            break
    # Between two cells the kernel is idle for a moment.
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
    """From the keyboard: focus a control, press a key, and see both picture and sentence change."""
    controls = explorer.locator(".noUi-handle, select, input[type=checkbox]")
    assert controls.count() > 0
    for number in range(controls.count()):
        control = controls.nth(number)
        before = drawn(explorer), sentence(explorer)
        control.focus()
        page.keyboard.press(control.evaluate(_KEY))
        wait_for(
            lambda: drawn(explorer) != before[0] and sentence(explorer) != before[1],  # noqa: B023, called right here
            f"picture and sentence to follow control {number}",
        )
        assert "failed" not in sentence(explorer)


# The key that moves a control to its other end: a slider is never at both.
_KEY = """control => control.matches('input') ? ' '
    : control.matches('select') ? (control.selectedIndex === 0 ? 'End' : 'Home')
    : control.ariaValueNow === control.ariaValueMin ? 'End' : 'Home'"""
