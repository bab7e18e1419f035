"""``make bench``: how our own code compares, as ratios of CPU seconds in one run; ratios are less noisy than times."""

import time
from collections.abc import Callable

import numpy as np
import ot
from plotly.subplots import make_subplots

from paperlab.figures import theme
from paperlab.figures.panels import Panel, heat_map, line, panels
from paperlab.tools.sinkhorn import sinkhorn


def cpu_seconds(function: Callable[[], object], repeats: int = 9) -> float:
    """The median CPU time of a call, after one that is not counted."""
    function()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return float(np.median(times))


def test_panels_against_plotly_subplots():
    """The same two panels: an explorer draws them for every update."""
    x, z = np.linspace(0, 1, 100), np.random.default_rng(0).normal(size=(40, 40))

    def ours():
        left = Panel("left", [line("a", x, x, theme.BLUE), line("b", x, x**2, theme.VERMILION)], "x", "y")
        return panels(left, Panel("right", [heat_map(z, title="z")], "column", "row"))

    def plotlys():
        figure = make_subplots(rows=1, cols=2, subplot_titles=["left", "right"])
        for name, y in (("a", x), ("b", x**2)):
            figure.add_scatter(name=name, x=x, y=y, row=1, col=1)
        figure.add_heatmap(z=z, row=1, col=2)
        for column, titles in enumerate((("x", "y"), ("column", "row")), 1):
            figure.update_xaxes(title=titles[0], row=1, col=column)
            figure.update_yaxes(title=titles[1], row=1, col=column)
        return figure

    ratio = cpu_seconds(plotlys) / cpu_seconds(ours)
    print(f"\npanels: {ratio:.1f} times as fast as plotly's subplots")
    assert ratio > 2


def test_sinkhorn_against_pot():
    """The same entropic plan at weak regularisation, to the same violation: scaling epsilon saves sweeps."""
    rng = np.random.default_rng(0)
    x, y = rng.uniform(size=(2, 60, 2))
    C, a = ((x[:, None] - y[None]) ** 2).sum(axis=2), np.full(60, 1 / 60)
    ours = lambda: sinkhorn(C, a, a, 2e-3, tol=1e-6).plan  # noqa: E731
    pots = lambda: ot.sinkhorn(a, a, C, 2e-3, method="sinkhorn_log", stopThr=1e-6, numItermax=10_000)  # noqa: E731
    assert np.allclose(ours(), pots(), atol=1e-5)
    ratio = cpu_seconds(pots, 5) / cpu_seconds(ours, 5)
    print(f"\nsinkhorn: {ratio:.1f} times as fast as POT in the log domain")
    assert ratio > 0.3
