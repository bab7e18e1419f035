"""PaperLab: machine-learning papers that one can touch.

Every paper of a fixed list is a module ``paperlab.<family>.<id>`` with a reference implementation, claims that are
measured against controls, an explorer and exercises, and a notebook that teaches it. This package's top level holds
what every notebook uses; it imports neither torch nor plotly.
"""

from paperlab.catalog import paper, papers
from paperlab.claims import check
from paperlab.predict import predict
from paperlab.source import show_source

__all__ = ["check", "paper", "papers", "predict", "show_source"]
