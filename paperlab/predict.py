"""Predictions: the reader commits to an answer before the claim is tested."""

from collections.abc import Sequence

from paperlab.source import in_notebook

_predictions: dict[str, str | None] = {}


def predict(id: str, question: str, options: Sequence[str]) -> None:
    """Ask ``question`` and store the choice under ``id``, the id of the claim that answers it.

    Nothing is chosen at first. The claim table repeats the choice beside the measured number. Asking again, as when
    the cell is run twice, keeps the choice.
    Raises ``ValueError`` if there are fewer than two different options.
    """
    options = tuple(options)
    if len(set(options)) < 2 or len(set(options)) < len(options):
        raise ValueError(f"options={options} must be at least two different answers")
    if _predictions.get(id) not in options:
        _predictions[id] = None
    if not in_notebook():
        print(question, *(f"  {number}. {option}" for number, option in enumerate(options, 1)), sep="\n")
        return

    import ipywidgets
    from IPython.display import display

    buttons = ipywidgets.RadioButtons(options=options, value=_predictions[id], layout={"width": "max-content"})
    answer = ipywidgets.HTML('<span role="status">Choose one before you read on.</span>')

    def store(change) -> None:
        choose(id, change["new"])
        answer.value = '<span role="status">Noted. The claim table below will say what was measured.</span>'

    buttons.observe(store, names="value")
    display(ipywidgets.VBox([ipywidgets.HTML(f"<b>{question}</b>"), buttons, answer]))


def choose(id: str, option: str) -> None:
    """Store the reader's choice, as a click does."""
    _predictions[id] = option


def prediction(id: str) -> str | None:
    """The choice in quotes, ``"nothing"`` if the question was asked and not answered, ``None`` if it was not asked."""
    if id not in _predictions:
        return None
    return f'"{_predictions[id]}"' if _predictions[id] else "nothing"
