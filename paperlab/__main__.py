"""``python -m paperlab`` is the command ``paperlab``."""

from paperlab.cli import app

app()
