r"""Why is Adam faster than SGD on transformers? It steps where the loss is less curved.

How far a step can go is limited by the curvature along the step, not by the largest curvature there is. The paper calls
it the *directional sharpness* of an update. On transformers the gradient points in a sharp direction, Adam's update in
one that is several times less sharp, at the same weights. A few coordinates of the gradient are to blame: cut only
those to size, and SGD's direction becomes less sharp at little loss of slope.

======================= ========================================================================================
symbol                  here
======================= ========================================================================================
:math:`x`               weights, ``(k, d)``: k networks side by side, which do not know of each other
:math:`f, g, H`         loss on a batch, its gradient and its Hessian at :math:`x`
:math:`v`               a direction of length 1; the step is :math:`x - s v` with :math:`s` its length
:math:`m, r`            Adam's running means of :math:`g` and of :math:`g^2`
:math:`p`               share of the coordinates that is clipped, 0 to 1
======================= ========================================================================================

.. math:: f(x - sv) \approx f(x) - s\, g^T v + \tfrac{s^2}{2} v^T H v, \qquad
   \max_s: \frac{(g^T v)^2}{2\, v^T H v} \text{ at } s = \frac{g^T v}{v^T H v}.

Directional sharpness is :math:`v^T H v`. Clipping: with :math:`\tau` the :math:`1 - p` quantile of all :math:`|u_i|`,
replace each :math:`u_i` by :math:`\max(-\tau, \min(\tau, u_i))`; it is applied to the finished update, so to
:math:`m / \sqrt{r}` for Adam.

Guarantee: for a quadratic the decrease is exact. If :math:`v^T H v \le 0` the model has no minimum, and the decrease is
infinite. On :math:`f = \frac12 \sum h_i x_i^2` the sharpness is :math:`\sum h_i^3 x_i^2 / \sum h_i^2 x_i^2` along the
gradient, and the mean of the :math:`h_i` along its sign.

Not reproduced: machine translation and language models. A one-block transformer learns a made-up rule on tokens whose
frequencies follow Zipf's law. The definitions follow the abstract and summaries; the paper's tables were not at hand.

Reference: Pan and Li: Toward Understanding Why Adam Converges Faster Than SGD for Transformers, 2023, arXiv 2306.00204.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import layer_norm, log_softmax, one_hot

from paperlab.arguments import finite_array, positive, whole_number
from paperlab.claims import Claim, Control, Observation
from paperlab.exercises import Exercise
from paperlab.reproducible import reproducible
from paperlab.tools.hessian import hessian_vector_product

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from paperlab.widgets import Explorer


def unit(directions: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
    """The directions with length 1. Raises ``ValueError`` if one is 0 or not finite."""
    lengths = directions.norm(dim=-1, keepdim=True)
    if not (lengths.isfinite() & (lengths > 0)).all():
        raise ValueError(f"directions have lengths {lengths.flatten().tolist()}; they must be positive and finite")
    return directions / lengths


def directional_sharpness(
    loss: Callable[[Tensor], Tensor], x: Float[Tensor, "... d"], directions: Float[Tensor, "m ... d"]
) -> Float[Tensor, "m ..."]:
    """``v^T H v`` for each of ``m`` directions at ``x``, by one Hessian-vector product each; it may be negative.

    ``loss`` maps ``(..., d)`` to ``(...)``; directions of any length. Raises ``ValueError`` for a direction that is 0.
    """
    v = unit(directions)
    # The networks of a stack do not know of each other, so the Hessian of the sum acts on each by itself.
    _, product = hessian_vector_product(lambda x: loss(x).sum(), x)
    return torch.stack([(each * product(each)).sum(dim=-1) for each in v])


def best_decrease(loss: Callable, x: Float[Tensor, "... d"], direction: Float[Tensor, "... d"], lengths) -> Tensor:
    """By how much the loss itself falls at the best of the step lengths, from ``x`` to ``x - length * v``; at least 0.

    Raises ``ValueError`` for lengths that are not a list of finite numbers, or a direction that is 0.
    """
    v = unit(direction)
    with torch.no_grad():
        falls = [loss(x) - loss(x - float(s) * v) for s in finite_array("lengths", lengths, ndim=1)]
    return torch.stack(falls).amax(dim=0).clamp_min(0)


def clip_coordinates(u: Float[Tensor, "... d"], share: float = 0.1) -> Float[Tensor, "... d"]:
    """The update with its largest coordinates, a ``share`` of them, cut to one size; signs stay.

    One threshold for all coordinates of a network. Raises ``ValueError`` unless ``0 <= share < 1``.
    """
    if not 0 <= share < 1:
        raise ValueError(f"share={share} must be at least 0 and below 1")
    # tau: the 1 - p quantile of |u|;  u <- max(-tau, min(tau, u))
    tau = torch.quantile(u.abs(), 1 - share, dim=-1, keepdim=True)
    return u.clamp(-tau, tau)


# Neither of Adam's two ideas, one of them, the other, both.
RULES = ("gradient", "momentum", "scaling", "Adam")


class Moments:
    """Adam's running means of the gradient and of its square, and the update directions that come from them."""

    def __init__(self, shape: tuple[int, ...], betas: tuple[float, float] = (0.9, 0.999)):
        self.betas, self.t = betas, 0
        self.m = self.r = torch.zeros(shape, dtype=torch.float64)

    def directions(self, g: Float[Tensor, ...]) -> dict[str, Float[Tensor, ...]]:
        """Take the next gradient; the gradient, its mean, and either divided by the root mean square."""
        (beta1, beta2), self.t = self.betas, self.t + 1
        # m <- beta1 m + (1 - beta1) g,  r <- beta2 r + (1 - beta2) g^2, both divided by 1 - beta^t
        self.m, self.r = beta1 * self.m + (1 - beta1) * g, beta2 * self.r + (1 - beta2) * g**2
        m, scale = self.m / (1 - beta1**self.t), (self.r / (1 - beta2**self.t)).sqrt() + 1e-8
        return dict(zip(RULES, (g, m, g / scale, m / scale), strict=True))


VOCABULARY, LENGTH, WIDTH, NOISE = 32, 8, 16, 0.1
# Embedding of tokens and places; queries, keys and values; their output; two layers behind it; logits.
SHAPES = ((32, 16), (8, 16), (16, 48), (16, 16), (16, 64), (64, 16), (16, 32))
SIZES = [rows * columns for rows, columns in SHAPES]


def sequences(rules: Int[np.ndarray, "k V"], n: int, exponent: float, rng: np.random.Generator):
    """``n`` sequences for each of ``k`` rules: tokens and what is to be said at each, int64 ``(k, n, 8)``.

    Token number ``i`` has a frequency like ``i^-exponent``: 1 is Zipf's law, 0 uniform. One target in ten is random.
    """
    edges = np.cumsum(np.arange(1.0, VOCABULARY + 1) ** -exponent)
    tokens = np.searchsorted(edges[:-1] / edges[-1], rng.random((len(rules), n, LENGTH + 1)))
    # y_t = (pi(token_t) + token_{t-1}) mod V
    targets = (rules[np.arange(len(rules))[:, None, None], tokens[..., 1:]] + tokens[..., :-1]) % VOCABULARY
    targets = np.where(rng.random(targets.shape) < NOISE, rng.integers(0, VOCABULARY, targets.shape), targets)
    return torch.tensor(tokens[..., 1:]), torch.tensor(targets)


def start(k: int, rng: np.random.Generator) -> Float[Tensor, "k d"]:
    """Random weights of ``k`` transformers: embeddings of standard deviation 0.3, layers of 1 / sqrt(inputs)."""
    scales = [0.3 if i < 2 else rows**-0.5 for i, (rows, _) in enumerate(SHAPES)]
    return torch.tensor(np.concatenate([s * rng.normal(size=(k, n)) for s, n in zip(scales, SIZES, strict=True)], 1))


def transformer(x: Float[Tensor, "k d"], tokens: Int[Tensor, "k n 8"]) -> Float[Tensor, "k n 8 V"]:
    """Logits of ``k`` transformers of one block: causal attention with one head, then two layers with a ReLU.

    Layers are normalised before they are used, without learnt scales. Raises ``ValueError`` for a wrong length.
    """
    if x.shape[-1] != sum(SIZES):
        raise ValueError(f"x has {x.shape[-1]} weights for each network; {sum(SIZES)} are needed")
    parts = zip(x.split(SIZES, dim=-1), SHAPES, strict=True)
    embed, place, qkv, out, up, down, logits = (part.unflatten(-1, shape) for part, shape in parts)
    n = tokens.shape[1]
    h = one_hot(tokens.flatten(1), VOCABULARY).to(x.dtype) @ embed + place.repeat(1, n, 1)
    q, key, value = (layer_norm(h, (WIDTH,)) @ qkv).unflatten(1, (n, LENGTH)).chunk(3, dim=-1)
    # softmax(Q K^T / sqrt(d)) V, and no look ahead
    ahead = torch.full((LENGTH, LENGTH), -torch.inf, dtype=x.dtype).triu(1)
    h = h + (torch.softmax(q @ key.mT / WIDTH**0.5 + ahead, dim=-1) @ value).flatten(1, 2) @ out
    h = h + torch.relu(layer_norm(h, (WIDTH,)) @ up) @ down
    return (layer_norm(h, (WIDTH,)) @ logits).unflatten(1, (n, LENGTH))


def batch_loss(tokens: Int[Tensor, "k n 8"], targets: Int[Tensor, "k n 8"]) -> Callable[[Tensor], Tensor]:
    """The mean cross-entropy of each network on its sequences, in nats, as a function of the weights: ``(k,)``."""

    def loss(x: Float[Tensor, "k d"]) -> Float[Tensor, " k"]:
        z = log_softmax(transformer(x, tokens), dim=-1)
        return -z.gather(-1, targets.expand(z.shape[:-1])[..., None]).mean(dim=(1, 2, 3))

    return loss


TIMES = (10, 20, 40, 80)


class Stop(NamedTuple):
    """Where training stood: the loss on the batch at hand, the weights, and the directions that a step could take."""

    loss: Callable[[Tensor], Tensor]
    x: Float[Tensor, "k d"]
    directions: dict[str, Float[Tensor, "k d"]]


def train(k: int, seed, *, rule="gradient", lr: float = 1.0, clip: float = 0.0, exponent: float = 1.0, stops=TIMES):
    """Train ``k`` transformers, each on its own rule, with batches of 16 new sequences; stop at these steps to measure.

    ``seed``: a ``SeedSequence``. ``rule``: which of the directions of ``Moments`` is the update; ``clip``: the
    share of its coordinates that is clipped. The same seed gives the same starts, rules and batches whatever the
    update. Returns the stops and the losses before each step, in nats, ``(steps, k)``. Raises ``ValueError`` for bad
    numbers or an unknown rule.
    """
    if rule not in RULES:
        raise ValueError(f"rule={rule!r} must be one of {', '.join(RULES)}")
    lr, steps = positive("lr", lr), whole_number("stops", max(stops), 1)
    rng = np.random.default_rng(seed)
    x, rules = start(k, rng), np.stack([rng.permutation(VOCABULARY) for _ in range(k)])
    moments, found, history = Moments(x.shape), [], []
    for step in range(1, steps + 1):
        loss = batch_loss(*sequences(rules, 16, exponent, rng))
        at = x.detach().requires_grad_()
        values = loss(at)
        directions = moments.directions(torch.autograd.grad(values.sum(), at)[0])
        if step in stops:
            found.append(Stop(loss, x, directions))
        # x <- x - lr clip(u)
        x = x - lr * (clip_coordinates(directions[rule], clip) if clip else directions[rule])
        history.append(values.detach().numpy())
    return found, np.array(history)


NETWORKS, STOPS = 4, (10, 20, 30, 40, 60, 80)
# Lengths of one step, as a distance between weights.
STEP_LENGTHS = np.logspace(-0.4, 0.6, 8)
# The best learning rate of a few, a factor of 2 apart, by the loss after 100 steps.
RUNS = {"SGD": {}, "clipped SGD": {"lr": 4.0, "clip": 0.5}, "Adam": {"rule": "Adam", "lr": 0.01}}


@dataclass(frozen=True, eq=False)
class Experiment:
    """Four transformers, trained by SGD, clipped SGD and Adam, looked at six times.

    Directions: those of ``RULES``; the gradient with its largest coordinates clipped, ``"clip 10 %"`` and
    ``"clip 50 %"``; the gradient with as many coordinates at random set to 0, ``"drop 10 %"`` and ``"drop 50 %"``.
    ``sharpness``: by run and direction, ``(stops, networks)``; of clipped SGD none, of Adam two directions.
    ``decrease``: by direction, the best in nats, in the runs of SGD and of clipped SGD, ``(2 stops, networks)``.
    ``history``: by run, the mean loss before each step, in nats.
    """

    sharpness: dict[str, dict[str, Float[np.ndarray, "stops k"]]]
    decrease: dict[str, Float[np.ndarray, "stops k"]]
    history: dict[str, Float[np.ndarray, " steps"]]


def random_drop(u: Float[Tensor, "k d"], share: float, rng: np.random.Generator) -> Float[Tensor, "k d"]:
    """The update with a ``share`` of its coordinates, drawn at random, set to 0."""
    return torch.where(torch.tensor(rng.random(u.shape) < share), 0.0, u)


def by_name(rows: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """A list of dicts with the same names as one dict of stacks."""
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


@reproducible()
def experiment(seed: int = 0) -> Experiment:
    """12 trainings of 80 steps."""
    for_training, for_drops = np.random.SeedSequence(seed).spawn(2)
    rng, sharpness, decrease, history = np.random.default_rng(for_drops), {"SGD": [], "Adam": []}, [], {}
    for run, options in RUNS.items():
        stops, losses = train(NETWORKS, for_training, stops=STOPS, **options)
        history[run] = losses.mean(axis=1)
        for stop in stops:
            g, each = stop.directions["gradient"], dict(stop.directions)
            each |= {f"clip {share} %": clip_coordinates(g, share / 100) for share in (10, 50)}
            each |= {f"drop {share} %": random_drop(g, share / 100, rng) for share in (10, 50)}
            if run in sharpness:
                names = (*RULES, "clip 10 %", "drop 10 %") if run == "SGD" else ("gradient", "Adam")
                found = directional_sharpness(stop.loss, stop.x, torch.stack([each[name] for name in names]))
                sharpness[run].append(dict(zip(names, found.numpy(), strict=True)))
            if run != "Adam":
                names = ("gradient", "Adam", "clip 50 %", "drop 50 %")
                decrease.append({name: best_decrease(stop.loss, stop.x, each[name], STEP_LENGTHS) for name in names})
    return Experiment({run: by_name(rows) for run, rows in sharpness.items()}, by_name(decrease), history)


def shares_left(result: Experiment, name: str) -> Float[np.ndarray, " m"]:
    """The sharpness along a direction as a share of the gradient's, in the run of SGD, where the latter is positive."""
    sgd = result.sharpness["SGD"]
    return (sgd[name] / sgd["gradient"])[sgd["gradient"] > 0]


def claims(result: Experiment) -> tuple[Claim | Observation, ...]:
    """What the paper says, in numbers of one run. Medians, since a sharpness may be negative."""
    sgd = {name: float(np.median(values)) for name, values in result.sharpness["SGD"].items()}
    both = {name: float(np.median([run[name] for run in result.sharpness.values()])) for name in ("gradient", "Adam")}
    left = {name: float(np.median(shares_left(result, name))) for name in ("clip 10 %", "drop 10 %")}
    gain = {name: float((fall - result.decrease["gradient"]).mean()) for name, fall in result.decrease.items()}
    end = {run: float(losses[-20:].mean()) for run, losses in result.history.items()}
    return (
        Claim(
            id="adam",
            statement="Adam's update points where the loss is much less curved than along the gradient",
            source="abstract: SGD has much worse directional sharpness",
            quantity="directional sharpness at the same weights, median over the runs of SGD and Adam",
            unit="",
            measured=both["Adam"],
            relation="<=",
            bound=0.2,
            control=Control("the gradient, SGD's direction", both["gradient"], "baseline"),
            scale="log",
        ),
        Claim(
            id="scaling",
            statement="It is the scaling of the coordinates that does it, not only the momentum",
            source="abstract: sharpness reduction of coordinate-wise scaling",
            quantity="directional sharpness at the same weights, median over the run of SGD",
            unit="",
            measured=sgd["Adam"],
            relation="<=",
            bound=0.09,
            control=Control("the same momentum without the scaling", sgd["momentum"], "ablation"),
            scale="log",
        ),
        Claim(
            id="few_coordinates",
            statement="A few coordinates are to blame: with the largest tenth clipped, the gradient is less sharp",
            source="abstract: a small fraction of the coordinates",
            quantity="directional sharpness that is left, as a share of the gradient's, median over the run of SGD",
            unit="",
            measured=left["clip 10 %"],
            relation="<=",
            bound=0.83,
            control=Control("a tenth of the coordinates, drawn at random, set to 0", left["drop 10 %"], "ablation"),
        ),
        Claim(
            id="local_decrease",
            statement="With its largest half clipped, the gradient lowers the loss of the batch by more",
            source="abstract: clipping improves the local loss reduction",
            quantity="by how much more the best step lowers the loss than along the gradient, mean",
            unit="nats",
            measured=gain["clip 50 %"],
            relation=">=",
            bound=0.01,
            control=Control("half of the coordinates, drawn at random, set to 0", gain["drop 50 %"], "ablation"),
        ),
        Observation(
            "By how much more the best step lowers the loss than along the gradient, in nats: Adam, clipped",
            gain["Adam"],
            gain["clip 50 %"],
            "Adam's direction is the least sharp, but most of it is older gradients: it has little slope on the batch.",
        ),
        Observation(
            "Training loss of steps 61 to 80 in nats, each at its best learning rate: clipped SGD, Adam",
            end["clipped SGD"],
            end["Adam"],
            "SGD itself ends near Adam: at this size Adam is not faster. Seeds differ as much as methods: no claim.",
        ),
    )


def exercises() -> tuple[Exercise, ...]:
    """One to implement, one to experiment with, one to think about."""

    def clip(u, share):
        return clip_coordinates(torch.tensor(u), share).numpy()

    def halves(share):
        return look_along(80, share, 1.0)["sharpness"] < look_along(80, 0, 1.0)["sharpness"] / 2

    return (
        Exercise(
            id="clip",
            task="Write `clip(u, share)` in NumPy for an update `u` of shape `(d,)`: the share of its coordinates that "
            "is largest in size is cut to the threshold, the signs stay. Take the threshold from `np.quantile`.",
            solution=clip,
            cases=lambda rng: [(rng.normal(size=n) ** 3, share) for n, share in ((10, 0.1), (20, 0.25), (41, 0.4))],
            slips={
                "You set the large coordinates to 0. They are cut to the threshold.": (
                    lambda u, share: np.where(clip(u, share) == u, u, 0.0)
                ),
                "That keeps the share and cuts the rest.": lambda u, share: clip(u, 1 - share),
            },
        ),
        Exercise(
            id="half",
            task="In the explorer, after 80 steps and with tokens of Zipf's law: what is the smallest share on the "
            "control with which the clipped gradient has less than half the gradient's directional sharpness? Bind "
            "the number, in percent, to `half`.",
            solution=lambda: min(filter(halves, SHARES)),
            slips={
                "The sharpness is less than before, but still more than half.": lambda: 25,
                "That is enough, but a smaller share is, too.": lambda: 75,
            },
            minutes=5,
            kind="experiment",
            answer="It takes half of the coordinates. A tenth of them brings more than a quarter off already.",
        ),
        Exercise(
            id="negative",
            task="Along some direction the slope is positive and the directional sharpness is negative. What does that "
            "say about a step? (a) The loss falls without end. (b) The quadratic model falls without end, and does not "
            "say how long a step may be. (c) The loss rises. Bind the letter to `negative`.",
            solution=lambda: "b",
            slips={
                "The model does. A cross-entropy is never negative, so the loss must stop falling.": lambda: "a",
                "By its slope it falls at first, and the curvature bends it further down.": lambda: "c",
            },
            minutes=5,
            kind="think",
            answer="The next terms decide. This is why the decrease is measured on the loss itself, and why a median, "
            "not a mean of logarithms, sums up the sharpness.",
        ),
    )


def figure(result: Experiment) -> go.Figure:
    """Sharpness along four directions during training, and what two cuts leave of it."""
    from paperlab.figures import theme
    from paperlab.figures.panels import Panel, line, panels, points

    colours = (theme.VERMILION, theme.ORANGE, theme.GREEN, theme.BLUE)
    over_time = [
        line(name, STOPS, np.median(result.sharpness["SGD"][name], axis=1), colour, dash=dash, mode="lines+markers")
        for name, colour, dash in zip(RULES, colours, ("dash", "dot", "dashdot", "solid"), strict=True)
    ]
    left = [shares_left(result, name) for name in ("clip 10 %", "drop 10 %")]
    cuts = [
        points("", i + np.linspace(-0.2, 0.2, share.size), share, (theme.BLUE, theme.GREY)[i], showlegend=False)
        for i, share in enumerate(left)
    ]
    return panels(
        Panel("four directions", over_time, "step of SGD", "directional sharpness", {"range": [0, 85]},
              {"range": [0, 1]}),
        Panel("two cuts of the gradient", cuts, "a tenth of the coordinates", "share of the sharpness left",
              {"range": [-0.5, 1.5], "tickvals": [0, 1], "ticktext": ["largest, clipped", "random, set to 0"]},
              {"range": [0, 1.2]}),
        title="Adam's direction is the least sharp, and clipping helps SGD",
    )  # fmt: skip


# In percent; lengths of the step that is looked along; ranks of weights that are ordered by size.
SHARES, ALONG = (2, 10, 25, 50, 75, 90), torch.linspace(0, 4, 21, dtype=torch.float64)
RANKS = np.unique(np.logspace(0, np.log10(sum(SIZES)), 60).astype(int))


@cache
def explorer_stops(exponent: float) -> dict[int, Stop]:
    """One transformer, trained by SGD, at the four times of the explorer."""
    with reproducible():
        return dict(zip(TIMES, train(1, np.random.SeedSequence(0), exponent=exponent, stops=TIMES)[0], strict=True))


@cache
def look_along(step: int, share: int | None, exponent: float) -> dict[str, np.ndarray]:
    """Along the gradient with a share clipped, in percent, or Adam's direction if it is None: change of the loss, its
    quadratic model, sharpness, sizes of the coordinates.
    """
    stop = explorer_stops(exponent)[step]
    g = stop.directions["gradient"]
    v = unit(stop.directions["Adam"] if share is None else clip_coordinates(g, share / 100))
    with torch.no_grad():
        change = stop.loss(stop.x - ALONG[:, None] * v) - stop.loss(stop.x)
    sharpness = directional_sharpness(stop.loss, stop.x, v[None])[0, 0]
    # -s g^T v + s^2 / 2 v^T H v
    model = -ALONG * (g * v).sum() + ALONG**2 / 2 * sharpness
    sizes = v[0].abs().sort(descending=True).values[RANKS - 1]
    found = {"change": change, "model": model, "sharpness": sharpness, "sizes": sizes}
    return {name: values.numpy() for name, values in found.items()}


def explorer_state(step: int, share: int, exponent: float) -> dict[str, np.ndarray]:
    """Along gradient, clipped gradient and Adam's direction, as rows."""
    return by_name([look_along(step, each, exponent) for each in (0, share, None)])


def explorer() -> Explorer:
    """The loss along the gradient, the clipped gradient and Adam's direction, beside the sizes of their coordinates."""
    from paperlab.figures import theme
    from paperlab.figures.panels import Panel, line, panels
    from paperlab.widgets import Choice, Explorer, Toggle

    def draw(state) -> go.Figure:
        looks = {"gradient": theme.VERMILION, "clipped": theme.SKY, "Adam": theme.BLUE}
        along, sizes = [], []
        for i, ((name, colour), dash) in enumerate(zip(looks.items(), ("dash", "solid", "dashdot"), strict=True)):
            along.append(line(name, ALONG, state["change"][i], colour, dash=dash))
            along.append(line("model", ALONG, state["model"][i], colour, dash="dot", opacity=0.5, showlegend=i == 2))
            sizes.append(line(name, RANKS, state["sizes"][i], colour, dash=dash, showlegend=False))
        return panels(
            Panel("the loss along three directions", along, "length of the step", "change of the loss, nats",
                  {"range": [0, 4]}, {"range": [-0.8, 0.4]}),
            Panel("sizes of the coordinates", sizes, "rank of the coordinate", "size, in a direction of length 1",
                  {"type": "log", "range": [0, 3.7], "dtick": 1}, {"type": "log", "range": [-4, 0], "dtick": 1}),
        )  # fmt: skip

    def describe(values, state) -> str:
        (g, clipped, adam), falls = state["sharpness"], -state["change"].min(axis=1)
        return (
            f"Directional sharpness {g:.3f} along the gradient, {clipped:.3f} with {values['share']} % clipped, "
            f"{adam:.3f} along Adam's. The best step lowers the loss by {', '.join(f'{x:.3f}' for x in falls)} nats."
        )

    return Explorer(
        controls=(
            Choice("share", "share of coordinates clipped", SHARES, default=50, unit="%"),
            Choice("step", "steps of SGD so far", TIMES, default=80),
            Toggle("uniform", "all tokens equally frequent"),
        ),
        prepare=lambda: [explorer_stops(exponent) for exponent in (0.0, 1.0)],
        compute=lambda context, share, step, uniform: explorer_state(step, share, 0.0 if uniform else 1.0),
        draw=draw,
        describe=describe,
        notice=(
            "Raise the share from 2 %: the plateau on the right grows, and the valley on the left gets wider.",
            "Move through the training: at each step the gradient's valley is the narrowest.",
            "Make all tokens equally frequent: clipping lowers the sharpness as before.",
        ),
        name="directional_sharpness",
    )
