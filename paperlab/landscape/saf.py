r"""Remember your own outputs of a few epochs ago, and do not run away from them: flatness at no extra gradient.

Sharpness-aware minimisation (SAM) finds flat minima and pays with two gradients a step. SAF looks at the past instead.
A sharp minimum betrays itself on the way: the loss drops suddenly. So SAF records what the network said of each example
a few epochs ago, and penalises the divergence between that and what it says now. A network that suddenly fits an
example it did not understand, for instance one with a wrong label, is held back. The price is memory, not gradients.

======================= ========================================================================================
symbol                  here
======================= ========================================================================================
:math:`w`               weights, ``(..., d)``: one flat vector, or a stack of networks that are trained at once
:math:`z_i`             logits of example :math:`i`; :math:`z_i^{(e)}` those of epoch :math:`e`
:math:`\tau`            temperature, 5
:math:`\tilde E`        ``lag``: how many epochs ago, 3
:math:`\lambda`         weight of the penalty, ``lam``; 0 is plain SGD
:math:`\rho`            radius of SAM, to compare with
======================= ========================================================================================

From epoch 6 on the loss of a batch :math:`B` is

.. math:: \frac1{|B|} \sum_{i \in B} \text{cross-entropy}(z_i) + \lambda \tau^2\,
   \mathrm{KL}\big(\mathrm{softmax}(z_i^{(e - \tilde E)} / \tau)\, \big\|\, \mathrm{softmax}(z_i / \tau)\big).

The record is a constant: the gradient goes through :math:`z_i` only.

Guarantee: one gradient a step, as many as SGD. The penalty is 0, and so is its gradient, where the outputs are those of
the record. That small penalties mean flat minima is the paper's argument and experiment, not a theorem.

Not reproduced: CIFAR and ImageNet; MESA, the variant that replaces the record by a moving average of the weights. The
constants are those of the official code, but for :math:`\lambda`, which is 0.3 there.

Reference: Du, Zhou, Feng, Tan and Zhou: Sharpness-Aware Training for Free, NeurIPS 2022, arXiv 2205.14083.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from paperlab import data
from paperlab.arguments import positive, whole_number
from paperlab.claims import Claim, Control, Observation
from paperlab.exercises import Exercise
from paperlab.reproducible import reproducible
from paperlab.tools import hessian
from paperlab.tools.perturbation import sam_perturbation
from paperlab.tools.stacked_networks import random_weights, split_layers

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from paperlab.widgets import Explorer


def network(
    w: Float[Tensor, "... d"], X: Float[Tensor, "... n p"], widths: tuple[int, ...]
) -> Float[Tensor, "... n c"]:
    """Logits of tanh networks with these widths; leading axes of weights and inputs are broadcast.

    Raises ``ValueError`` if ``w`` has another length than the widths ask for.
    """
    z = X
    for i, (W, b) in enumerate(split_layers(w, widths)):
        z = (torch.tanh(z) if i else z) @ W.mT + b
    return z


def losses(z: Float[Tensor, "... n c"], y: Int[Tensor, "... n"]) -> Float[Tensor, "... n"]:
    """The cross-entropy of each example, in nats."""
    return -log_softmax(z, dim=-1).gather(-1, y.expand(z.shape[:-1])[..., None])[..., 0]


def trajectory_loss(z: Float[Tensor, "... n c"], past: Float[Tensor, "... n c"], tau: float = 5.0) -> Tensor:
    """``tau^2`` times the divergence of the present outputs from the past ones, at temperature ``tau``, mean over the
    examples. Raises ``ValueError`` unless ``tau > 0``.
    """
    tau = positive("tau", tau)
    p, q = log_softmax(z / tau, dim=-1), log_softmax(past / tau, dim=-1)
    # tau^2 KL(softmax(past / tau) || softmax(z / tau))
    return tau**2 * (q.exp() * (q - p)).sum(dim=-1).mean(dim=-1)


class OutputBuffer:
    """The logits of all examples in the present epoch and in the ``lag`` epochs before it.

    ``lag + 1`` slots: with one less, the past would be overwritten by the present before it is read. Raises
    ``ValueError`` unless ``lag`` is at least 1.
    """

    def __init__(self, shape: tuple[int, ...], lag: int):
        self.lag = whole_number("lag", lag, 1)
        self.slots = torch.full((lag + 1, *shape), torch.nan, dtype=torch.float64)

    def write(self, epoch: int, rows: Int[Tensor, " b"], z: Float[Tensor, "... b c"]) -> None:
        """Record the logits of the examples ``rows``, as constants."""
        self.slots[epoch % (self.lag + 1)][..., rows, :] = z.detach()

    def read(self, epoch: int, rows: Int[Tensor, " b"]) -> Float[Tensor, "... b c"]:
        """Their logits ``lag`` epochs ago; NaN if that was before the first epoch."""
        return self.slots[(epoch - self.lag) % (self.lag + 1)][..., rows, :]


def train(
    X: Float[Tensor, "k n p"],
    y: Int[Tensor, "k n"],
    w: Float[Tensor, "k d"],
    widths,
    rng: np.random.Generator,
    *,
    lam=0.0,
    rho: float = 0.0,
    lag: int = 3,
    tau: float = 5.0,
    epochs: int = 50,
    lr: float = 0.1,
):
    """Train ``k`` networks at once, each on its own data, with SGD, momentum 0.9, a cosine schedule, batches of 50.

    ``lam``: weight of the penalty, a number or one a network ``(k,)``; from epoch 6 on. ``rho``: above 0, SAM
    of this radius. Returns the weights ``(k, d)``, the losses of all examples after each epoch ``(epochs, k, n)``, and
    how many gradients each network took. Raises ``ValueError`` for bad numbers.
    """  # fmt: skip
    n, velocity, history, n_gradients = y.shape[1], torch.zeros_like(w), [], 0
    n_steps, lr = whole_number("epochs", epochs, 1) * -(-n // 50), positive("lr", lr)
    lam, record = torch.as_tensor(lam), OutputBuffer((*y.shape, widths[-1]), lag)
    if not (lam >= 0).all():
        raise ValueError(f"lam={lam.tolist()} must not be negative")
    for epoch in range(1, epochs + 1):
        for step, rows in enumerate(torch.tensor(rng.permutation(n)).split(50), (epoch - 1) * -(-n // 50)):

            def gradient(w, epoch=epoch, rows=rows):
                w = w.detach().requires_grad_()
                z = network(w, X[:, rows], widths)
                objective = losses(z, y[:, rows]).mean(dim=1)
                record.write(epoch, rows, z)
                if epoch >= max(6, lag + 1) and lam.any():
                    objective = objective + lam * trajectory_loss(z, record.read(epoch, rows), tau)
                # The networks do not know of each other: the gradient of the sum is that of each.
                return torch.autograd.grad(objective.sum(), w)[0]

            g, n_gradients = gradient(w), n_gradients + 1
            if rho:
                # SAM: the gradient at w + rho g / |g|, for each network
                g, n_gradients = gradient(w + torch.stack([sam_perturbation(each, rho) for each in g])), n_gradients + 1
            velocity = 0.9 * velocity + g
            w = w - lr * (1 + np.cos(np.pi * step / n_steps)) / 2 * velocity
        history.append(losses(network(w, X, widths), y))
    return w, torch.stack(history), n_gradients


def sharpest(w: Float[Tensor, " d"], X, y, widths) -> tuple[float, Float[Tensor, " d"]]:
    """The largest eigenvalue of the Hessian of the mean cross-entropy of one network, and its eigenvector."""
    values, vectors = hessian.top_eigenpairs(
        lambda v: cross_entropy(network(v, X, widths), y), w, 1, torch.Generator().manual_seed(0)
    )
    return float(values[0]), vectors[0]


def noisy_digits(k: int, n: int, wrong: float, rng: np.random.Generator):
    """``k`` draws of ``n`` digits, of which the first share ``wrong`` has wrong labels, and of 1000 others to test:
    images and labels, images and labels; torch tensors with leading axis ``k``.
    """
    images, labels = (torch.tensor(each) for each in data.digits())
    rows = torch.tensor(np.stack([rng.permutation(len(labels))[: n + 1000] for _ in range(k)]))
    y, n_wrong = labels[rows], round(wrong * n)
    y[:, :n_wrong] = (y[:, :n_wrong] + torch.tensor(rng.integers(1, 10, (k, n_wrong)))) % 10
    return images[rows[:, :n]], y[:, :n], images[rows[:, n:]], y[:, n:]


IMAGES, WRONG, WIDTHS = 300, 60, (64, 32, 32, 10)


@dataclass(frozen=True, eq=False)
class Experiment:
    """Four draws of 300 digits, 60 of them with wrong labels, and two draws with none.

    By method, ``"SGD"``, ``"SAF"`` or ``"SAM"``; ``"clean SGD"`` and ``"clean SAF"`` without wrong labels.
    ``sharpness``: at the end, of each draw. ``test``: mean loss on 1000 other digits, and accuracy in percent, of each
    draw. ``history``: mean losses after each epoch, over the wrong and over the right labels.
    ``n_gradients``: of one training.
    """

    sharpness: dict[str, Float[np.ndarray, " k"]]
    test: dict[str, Float[np.ndarray, "2 k"]]
    history: dict[str, Float[np.ndarray, "2 epochs"]]
    n_gradients: dict[str, int]


@reproducible()
def experiment(seed: int = 0) -> Experiment:
    """16 trainings of 50 epochs."""
    rng = np.random.default_rng(np.random.SeedSequence(seed).spawn(1)[0])
    noisy, clean = (noisy_digits(k, IMAGES, share, rng) for k, share in ((4, WRONG / IMAGES), (2, 0.0)))
    w = torch.tensor(random_weights(WIDTHS, 6, rng))
    both = [torch.cat(parts) for parts in zip(noisy, clean, strict=True)]
    X, y, test_X, test_y = (torch.cat([part, part]) for part in both)
    lam = torch.tensor([0.0] * 6 + [1.0] * 6)
    found = {"SGD and SAF": train(X, y, torch.cat([w, w]), WIDTHS, rng, lam=lam)}
    found["SAM"] = train(*noisy[:2], w[:4], WIDTHS, rng, rho=0.1)
    places = {"SGD": range(4), "SAF": range(6, 10), "clean SGD": range(4, 6), "clean SAF": range(10, 12)}
    sharpness, test, history, n_gradients = {}, {}, {}, {}
    for name in (*places, "SAM"):
        w_end, each, n_gradients[name] = found["SAM" if name == "SAM" else "SGD and SAF"]
        rows = list(places.get(name, range(4)))
        sharpness[name] = np.array([sharpest(w_end[i], X[i], y[i], WIDTHS)[0] for i in rows])
        z = network(w_end[rows], test_X[rows], WIDTHS)
        right = 100.0 * (z.argmax(dim=-1) == test_y[rows])
        test[name] = np.array([losses(z, test_y[rows]).mean(dim=1), right.mean(dim=1)])
        history[name] = np.array([part.mean(dim=(1, 2)) for part in (each[:, rows, :WRONG], each[:, rows, WRONG:])])
    return Experiment(sharpness, test, history, n_gradients)


def claims(result: Experiment) -> tuple[Claim | Observation, ...]:
    """What the paper says, in numbers of one run."""
    sharpness = {name: float(np.exp(np.log(each).mean())) for name, each in result.sharpness.items()}
    test = {name: each.mean(axis=1) for name, each in result.test.items()}
    return (
        Claim(
            id="cost",
            statement="SAF takes as many gradients as SGD",
            source="title: for free",
            quantity="gradients in one training of 50 epochs with 6 batches",
            unit="",
            measured=result.n_gradients["SAF"],
            relation="<=",
            bound=450,
            control=Control("SAM", result.n_gradients["SAM"], "baseline"),
        ),
        Claim(
            id="sharpness",
            statement="With a fifth of the labels wrong, SAF ends in flatter places than SGD",
            source="abstract: sharpness-aware training",
            quantity="largest eigenvalue of the Hessian, geometric mean of four trainings",
            unit="",
            measured=sharpness["SAF"],
            relation="<=",
            bound=5.4,
            control=Control("SGD: the same without the penalty", sharpness["SGD"], "ablation"),
            scale="log",
        ),
        Claim(
            id="learnt",
            statement="What the penalty holds back is learning wrong labels by heart",
            source="trajectory loss against sudden drops; here with planted wrong labels",
            quantity="training loss of the wrong labels at the end, mean of four trainings",
            unit="nats",
            measured=float(result.history["SAF"][0, -1]),
            relation=">=",
            bound=1.9,
            control=Control("SGD: the same without the penalty", float(result.history["SGD"][0, -1]), "ablation"),
        ),
        Observation(
            "Test accuracy in percent, mean of four trainings: SAF, SGD",
            float(test["SAF"][1]),
            float(test["SGD"][1]),
            "SAF is better in each of our runs. The accuracy depends on the draw as much as on the method: no claim.",
        ),
        Observation(
            "Sharpness, geometric mean of four trainings: SAF, SAM",
            sharpness["SAF"],
            sharpness["SAM"],
            "SAM, with twice the gradients, ends in flatter places still.",
        ),
        Observation(
            "Sharpness without wrong labels, geometric mean of two trainings: SAF, SGD",
            sharpness["clean SAF"],
            sharpness["clean SGD"],
            "Here SAF is the sharper one: it keeps the loss higher, and confident networks have small Hessians.",
        ),
        Observation(
            "Training loss without wrong labels, in nats, mean of two trainings: SAF, SGD",
            float(result.history["clean SAF"][:, -1] @ [WRONG / IMAGES, 1 - WRONG / IMAGES]),
            float(result.history["clean SGD"][:, -1] @ [WRONG / IMAGES, 1 - WRONG / IMAGES]),
            "Sharpness of the cross-entropy should not be compared at such different losses.",
        ),
    )


def exercises() -> tuple[Exercise, ...]:
    """One to implement, one to experiment with, one to think about."""

    def penalty(z, past, tau):
        return float(trajectory_loss(torch.tensor(z), torch.tensor(past), tau))

    def cases(rng):
        return [(*3 * rng.normal(size=(2, n, c)), tau) for n, c, tau in ((1, 2, 2.0), (3, 4, 5.0), (6, 10, 3.0))]

    return (
        Exercise(
            id="penalty",
            task="Write `penalty(z, past, tau)` in NumPy: the trajectory loss without its weight. `z` and `past` are "
            "logits `(n, c)`; return a number.",
            solution=penalty,
            cases=cases,
            slips={
                "The divergence is not symmetric: the past comes first.": lambda z, past, tau: penalty(past, z, tau),
                "The factor tau squared is missing.": lambda z, past, tau: penalty(z, past, tau) / tau**2,
                "That is the sum over the examples; the mean is asked for.": (
                    lambda z, past, tau: len(z) * penalty(z, past, tau)
                ),
            },
            difficulty=2,
        ),
        Exercise(
            id="flattest",
            task="In the explorer, with no wrong labels and lag 3: which weight of the penalty on the control ends "
            "with the smallest sharpness? Bind the number to `flattest`.",
            solution=lambda: 0.0,
            slips={
                "That is the flattest with wrong labels. Without, it is another one.": lambda: 3.0,
                "A smaller one gives less. Try all four.": lambda: 1.0,
            },
            minutes=5,
            kind="experiment",
            answer="0, plain SGD. All examples are learnt, the loss is nearly 0, and with it the Hessian.",
        ),
        Exercise(
            id="memory",
            task="How many numbers does the record hold for ImageNet, 1.28 million images and 1000 classes, with a lag "
            "of 3 and no slot to spare? (a) 1.28 million. (b) 1.28 billion. (c) 5.12 billion. Bind the letter to "
            "`memory`.",
            solution=lambda: "c",
            slips={
                "Each image has one logit for each class.": lambda: "a",
                "That is one epoch. The record holds the present epoch and the three before.": lambda: "b",
            },
            minutes=5,
            kind="think",
            answer="4 epochs, 1.28 million images, 1000 logits each: 20 GB in single precision. This is why the paper "
            "has a second method, MESA, that keeps a moving average of the weights instead.",
        ),
    )


def figure(result: Experiment) -> go.Figure:
    """The losses of wrong and of right labels during training, and where the sharpness ends."""
    from paperlab.figures import theme
    from paperlab.figures.panels import Panel, line, panels, points

    epochs = np.arange(1, 51)
    looks = {"SAF": (theme.BLUE, "solid"), "SGD": (theme.VERMILION, "dash"), "SAM": (theme.GREEN, "dot")}
    over_time = [
        [line(name, epochs, result.history[name][row], colour, dash=dash, showlegend=row == 0)
         for name, (colour, dash) in looks.items()] for row in (0, 1)
    ]  # fmt: skip
    ends = [
        points("", [name] * len(each), each, looks[name.split()[-1]][0], size=10, showlegend=False)
        for name, each in result.sharpness.items()
    ]
    axes = {"range": [0, 50]}, {"type": "log", "range": [-1, 0.7], "tickvals": [0.1, 0.3, 1, 3]}
    return panels(
        Panel("60 wrong labels", over_time[0], "epoch", "mean loss, nats", axes[0], {"range": [1, 4.5]}),
        Panel("240 right labels", over_time[1], "epoch", "mean loss, nats", *axes),
        Panel("sharpness at the end", ends, "method", "largest eigenvalue", {"tickangle": -40}, {"range": [0, 12]}),
        title="What the penalty holds back",
    )


LAMBDAS, LAGS, SHARES = (0.0, 0.3, 1.0, 3.0), (3, 9), (0.0, 0.2, 0.4)


@cache
def explorer_runs(lag: int) -> dict[tuple[float, float], dict]:
    """Trainings on 200 digits for all shares of wrong labels and all weights of the penalty, from the same start."""
    with reproducible():
        rng, widths = np.random.default_rng(0), (64, 24, 24, 10)
        draws = [noisy_digits(1, 200, share, rng) for share in SHARES]
        X, y, test_X, test_y = (
            torch.cat(parts).repeat_interleave(len(LAMBDAS), 0) for parts in zip(*draws, strict=True)
        )
        keys = [(share, lam) for share in SHARES for lam in LAMBDAS]
        lam = torch.tensor(LAMBDAS).double().repeat(len(SHARES))
        w = torch.tensor(random_weights(widths, 1, rng)).expand(len(keys), -1)
        w, each, _ = train(X, y, w, widths, rng, lam=lam, lag=lag)
        right = 100.0 * (network(w, test_X, widths).argmax(dim=-1) == test_y)
        found = {}
        for i, key in enumerate(keys):
            n_wrong = round(200 * key[0])
            sharpness, v = sharpest(w[i], X[i], y[i], widths)
            along = w[i] + torch.linspace(-1.5, 1.5, 31)[:, None] * v
            found[key] = {
                "wrong": each[:, i, :n_wrong].mean(dim=1).numpy(),
                "right": each[:, i, n_wrong:].mean(dim=1).numpy(),
                "slice": losses(network(along, X[i], widths), y[i]).mean(dim=-1).numpy(),
                "sharpness": sharpness,
                "accuracy": float(right[i].mean()),
            }
    return found


def explorer() -> Explorer:
    """The losses of wrong and right labels, and the loss across the valley, for SGD and SAF."""
    from paperlab.figures import theme
    from paperlab.figures.panels import Panel, line, panels
    from paperlab.widgets import Choice, Explorer

    def compute(context, lam: float, lag: int, share: float) -> dict:
        return {"SAF": context[lag][share, lam], "SGD": context[lag][share, 0.0]}

    def draw(state) -> go.Figure:
        traces = {"wrong": [], "right": [], "slice": []}
        for name, colour, dash in (("SAF", theme.BLUE, "solid"), ("SGD", theme.VERMILION, "dash")):
            for what, found in traces.items():
                x = np.linspace(-1.5, 1.5, 31) if what == "slice" else np.arange(1, 51)
                found.append(line(name, x, state[name][what], colour, dash=dash, showlegend=what == "right"))
        axes = {"range": [0, 50]}, {"type": "log", "range": [-2, 0.9], "tickvals": [0.01, 0.1, 1, 5]}
        return panels(
            Panel("wrong labels", traces["wrong"], "epoch", "mean loss, nats", axes[0], {"range": [1, 4.5]}),
            Panel("right labels", traces["right"], "epoch", "mean loss, nats", *axes),
            Panel("across the valley", traces["slice"], "move of the weights", "training loss, nats",
                  {"range": [-1.5, 1.5]}, {"range": [0, 5]}),
        )  # fmt: skip

    def describe(values, state) -> str:
        saf, sgd = state["SAF"], state["SGD"]
        return (
            f"Sharpness {saf['sharpness']:.1f} with SAF, {sgd['sharpness']:.1f} with SGD; test accuracy "
            f"{saf['accuracy']:.1f} and {sgd['accuracy']:.1f} %. Loss on the right labels {saf['right'][-1]:.2f} and "
            f"{sgd['right'][-1]:.2f} nats"
            + (f", on the wrong ones {saf['wrong'][-1]:.2f} and {sgd['wrong'][-1]:.2f}." if values["share"] else ".")
        )

    return Explorer(
        controls=(
            Choice("lam", "weight λ of the penalty", LAMBDAS, default=1.0),
            Choice("lag", "lag of the record", LAGS, default=3, unit="epochs"),
            Choice("share", "share of wrong labels", SHARES, default=0.2, names={s: f"{s:.0%}" for s in SHARES}),
        ),
        prepare=lambda: {lag: explorer_runs(lag) for lag in LAGS},
        compute=compute,
        draw=draw,
        describe=describe,
        notice=(
            "Raise λ from 0: on the left the solid line stays up, on the right the valley becomes wide.",
            "Set the wrong labels to 0 %: now the penalty makes the valley narrower, and keeps the loss up.",
            "Set λ to 3 and the lag to 9: held back too much, SAF has a lower test accuracy than SGD.",
        ),
        name="saf",
    )
