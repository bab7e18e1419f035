"""Pure functions from arrays to plotly figures, all in one theme. Import the topic: ``paperlab.figures.curves``."""
