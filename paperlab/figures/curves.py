"""Curves over one axis."""

from collections.abc import Mapping

import plotly.graph_objects as go

from paperlab.figures import theme
from paperlab.figures.panels import Panel, line, panels

_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


def curves(
    series: Mapping[str, tuple], *, title: str, x_title: str, y_title: str, log_x: bool = False, log_y: bool = False
) -> go.Figure:
    """One curve for each ``name: (x, y)``, in order of importance: the method first, then what it is compared with."""
    lines = [
        line(name, x, y, theme.COLOURS[index % len(theme.COLOURS)], dash=_DASHES[index % len(_DASHES)])
        for index, (name, (x, y)) in enumerate(series.items())
    ]
    axes = [{"type": "log" if log else "linear"} for log in (log_x, log_y)]
    return panels(Panel("", lines, x_title, y_title, *axes), title=title)
