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

from collections.abc import Callable, Sequence
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


def predicted_decrease(g: Float[Tensor, "... d"], direction: Float[Tensor, "... d"], sharpness: Float[Tensor, "..."]):
    """By how much the quadratic model falls at best along the direction; infinite where the sharpness is not positive,
    since the model has no minimum there.
    """
    slope = (g * unit(direction)).sum(dim=-1)
    # (g^T v)^2 / (2 v^T H v)
    return torch.where(sharpness > 0, slope**2 / (2 * sharpness), torch.inf)


def best_decrease(
    loss: Callable[[Tensor], Tensor], x: Float[Tensor, "... d"], direction: Float[Tensor, "... d"], lengths
) -> Float[Tensor, "..."]:
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

    def __init__(self, shape: tuple[int, ...], betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8):
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas={betas} must lie in [0, 1)")
        self.betas, self.eps, self.t = betas, eps, 0
        self.m = self.r = torch.zeros(shape, dtype=torch.float64)

    def directions(self, g: Float[Tensor, "..."]) -> dict[str, Float[Tensor, "..."]]:
        """Take the next gradient; the gradient, its mean, and either divided by the root mean square."""
        (beta1, beta2), self.t = self.betas, self.t + 1
        # m <- beta1 m + (1 - beta1) g,  r <- beta2 r + (1 - beta2) g^2, both divided by 1 - beta^t
        self.m, self.r = beta1 * self.m + (1 - beta1) * g, beta2 * self.r + (1 - beta2) * g**2
        m, scale = self.m / (1 - beta1**self.t), (self.r / (1 - beta2**self.t)).sqrt() + self.eps
        return dict(zip(RULES, (g, m, g / scale, m / scale), strict=True))


VOCABULARY, LENGTH, WIDTH, NOISE = 32, 8, 16, 0.1
# Embedding of tokens and places; queries, keys and values; their output; two layers behind it; logits.
SHAPES = (
    (VOCABULARY, WIDTH), (LENGTH, WIDTH), (WIDTH, 3 * WIDTH), (WIDTH, WIDTH), (WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH),
    (WIDTH, VOCABULARY),
)  # fmt: skip
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
    return lambda x: (
        -log_softmax(transformer(x, tokens), dim=-1).gather(-1, targets[..., None]).squeeze(-1).mean(dim=(1, 2))
    )


class Stop(NamedTuple):
    """Where training stood: the loss on the batch at hand, the same on as many fresh sequences, weights, directions."""

    loss: Callable[[Tensor], Tensor]
    fresh: Callable[[Tensor], Tensor]
    x: Float[Tensor, "k d"]
    directions: dict[str, Float[Tensor, "k d"]]


def train(
    k: int,
    seed: np.random.SeedSequence,
    *,
    rule: str = "gradient",
    lr: float = 1.0,
    clip: float = 0.0,
    exponent: float = 1.0,
    stops: Sequence[int] = (10, 20, 40, 80),
    batch: int = 16,
) -> tuple[list[Stop], Float[np.ndarray, "steps k"]]:
    """Train ``k`` transformers, each on its own rule, with batches of fresh sequences; stop at these steps to measure.

    ``rule``: which of the directions of ``Moments`` is the update; ``clip``: the share of its coordinates that is
    clipped. The same seed and stops give the same starts, rules and batches whatever the update. Returns the stops and
    the losses before each step, in nats, ``(steps, k)``. Raises ``ValueError`` for bad numbers or an unknown rule.
    """
    if rule not in RULES:
        raise ValueError(f"rule={rule!r} must be one of {', '.join(RULES)}")
    lr, steps = positive("lr", lr), whole_number("stops", max(stops), 1)
    rng = np.random.default_rng(seed)
    x, rules = start(k, rng), np.stack([rng.permutation(VOCABULARY) for _ in range(k)])
    moments, found, history = Moments(x.shape), [], []
    for step in range(1, steps + 1):
        loss = batch_loss(*sequences(rules, batch, exponent, rng))
        at = x.detach().requires_grad_()
        values = loss(at)
        directions = moments.directions(torch.autograd.grad(values.sum(), at)[0])
        if step in stops:
            found.append(Stop(loss, batch_loss(*sequences(rules, batch, exponent, rng)), x, directions))
        update = directions[rule]
        # x <- x - lr clip(u)
        x = x - lr * (clip_coordinates(update, clip) if clip else update)
        history.append(values.detach().numpy())
    return found, np.array(history)


def random_drop(u: Float[Tensor, "k d"], share: float, rng: np.random.Generator) -> Float[Tensor, "k d"]:
    """The update with a ``share`` of its coordinates, drawn at random, set to 0."""
    return torch.where(torch.tensor(rng.random(u.shape) < share), 0.0, u)


NETWORKS, STOPS = 4, (10, 20, 30, 40, 60, 80)
# Lengths of one step, as a distance between weights.
STEP_LENGTHS = np.logspace(-0.6, 0.6, 10)
# The best learning rate of a few, a factor of 2 apart, by the loss after 100 steps.
RUNS = {"SGD": {}, "clipped SGD": {"lr": 4.0, "clip": 0.5}, "Adam": {"rule": "Adam", "lr": 0.01}}


@dataclass(frozen=True, eq=False)
class Experiment:
    """Four transformers, trained by SGD, clipped SGD and Adam, looked at six times.

    Directions: those of ``RULES``; the gradient with its largest coordinates clipped, ``"clip 10 %"`` and
    ``"clip 50 %"``; the gradient with as many coordinates at random set to 0, ``"drop 10 %"`` and ``"drop 50 %"``.
    ``sharpness``: by run, SGD with all directions and Adam with two, and by direction, ``(stops, networks)``. ``decrease``: by direction, the
    best in nats, in the runs of SGD and of clipped SGD, ``(2 stops, networks)``; ``fresh``: the same on other
    sequences. ``history``: by run, the mean loss before each step, in nats.
    """

    sharpness: dict[str, dict[str, Float[np.ndarray, "stops k"]]]
    decrease: dict[str, Float[np.ndarray, "stops k"]]
    fresh: dict[str, Float[np.ndarray, "stops k"]]
    history: dict[str, Float[np.ndarray, " steps"]]


@reproducible()
def experiment(seed: int = 0) -> Experiment:
    """12 trainings of 80 steps."""
    for_training, for_drops = np.random.SeedSequence(seed).spawn(2)
    rng = np.random.default_rng(for_drops)
    sharpness: dict = {"SGD": [], "Adam": []}
    decrease, fresh, history = [], [], {}
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
                for where, loss in ((decrease, stop.loss), (fresh, stop.fresh)):
                    names = ("gradient", "clip 50 %", *(("Adam", "drop 50 %") if where is decrease else ()))
                    falls = [best_decrease(loss, stop.x, each[name], STEP_LENGTHS).numpy() for name in names]
                    where.append(dict(zip(names, falls, strict=True)))
    return Experiment(
        {run: by_name(rows) for run, rows in sharpness.items()}, by_name(decrease), by_name(fresh), history
    )


def by_name(rows: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """A list of dicts with the same names as one dict of stacks."""
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def claims(result: Experiment) -> tuple[Claim | Observation, ...]:
    """What the paper says, in numbers of one run. Medians, since a sharpness may be negative."""
    sgd = {name: float(np.median(values)) for name, values in result.sharpness["SGD"].items()}
    both = {
        name: float(np.median([run[name] for run in result.sharpness.values()])) for name in ("gradient", "Adam")
    }
    # A share of something negative has no meaning.
    gradient = result.sharpness["SGD"]["gradient"]
    left = {
        name: float(np.median(values[gradient > 0] / gradient[gradient > 0]))
        for name, values in result.sharpness["SGD"].items()
    }
    gain = {name: float((fall - result.decrease["gradient"]).mean()) for name, fall in result.decrease.items()}
    fresh = {name: float(values.mean()) for name, values in result.fresh.items()}
    end = {run: float(losses[-20:].mean()) for run, losses in result.history.items()}
    every = np.concatenate([values for run in result.sharpness.values() for values in run.values()])
    return (
        Claim(
            id="adam",
            statement="Adam's update points where the loss is much less curved than along the gradient",
            source="abstract: SGD has much worse directional sharpness",
            quantity="directional sharpness at the same weights, median over the runs of SGD and Adam",
            unit="",
            measured=both["Adam"],
            relation="<=",
            bound=0.25,
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
            bound=0.8,
            control=Control("a tenth of the coordinates, drawn at random, set to 0", left["drop 10 %"], "ablation"),
        ),
        Claim(
            id="local_decrease",
            statement="A step along the clipped gradient lowers the loss of the batch by more",
            source="abstract: clipping improves the local loss reduction",
            quantity="how much more the best step lowers the loss than along the gradient, largest half clipped",
            unit="nats",
            measured=gain["clip 50 %"],
            relation=">=",
            bound=0.01,
            control=Control("half of the coordinates, drawn at random, set to 0", gain["drop 50 %"], "ablation"),
        ),
        Observation(
            "Loss in nats, mean of steps 61 to 80, each at its best learning rate: clipped SGD, SGD",
            end["clipped SGD"],
            end["SGD"],
            "Clipping speeds SGD up here, but seeds differ by as much as the two runs do: no claim.",
        ),
        Observation(
            "The same: Adam, SGD",
            end["Adam"],
            end["SGD"],
            "In so small a transformer Adam is not faster than a well-tuned SGD, for all its low sharpness.",
        ),
        Observation(
            "How much more the best step lowers the loss than along the gradient, in nats: Adam, clipped",
            gain["Adam"],
            gain["clip 50 %"],
            "Adam's direction is the least sharp, and has the least slope on the batch: most of it is older gradients.",
        ),
        Observation(
            "Best decrease on sequences that are not in the batch, in nats: clipped gradient, gradient",
            fresh["clip 50 %"],
            fresh["gradient"],
            "On new data one step gains a tenth as much, and the clipped direction is no better.",
        ),
        Observation(
            "Directional sharpnesses that are negative, of all that were measured",
            float((every < 0).sum()),
            float(every.size),
            "There the quadratic model has no minimum. They are kept: a median needs no logarithm.",
        ),
    )
