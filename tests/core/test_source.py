"""Showing the reference implementation."""

import pytest

from paperlab.source import show_source, source_without_docstring
from paperlab.widgets import Explorer


def documented(x):
    """Goes.

    All of it.
    """
    # stays
    return x


def test_docstring_goes_and_comments_stay():
    assert source_without_docstring(documented) == "def documented(x):\n    # stays\n    return x"


def test_too_long_is_refused(capsys):
    show_source(documented)
    assert "# stays" in capsys.readouterr().out
    with pytest.raises(ValueError, match="thing=Explorer has"):
        show_source(Explorer)
