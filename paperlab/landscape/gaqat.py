r"""Learn the grid on which weights are rounded, from two gradients: and where they quarrel, let one of them rest.

A network of low precision keeps each weight and each activation as a small whole number times a *scale*, and learns the
scales with the weights. If it shall also be flat, for the sake of unseen domains, each scale gets two gradients: one
from the loss, one from the loss at perturbed weights. They often disagree. GAQAT watches the sign of the first one. A
scale on which it hardly changes for a while is left to the second one, for a while.

======================= ========================================================================================
symbol                  here
======================= ========================================================================================
:math:`w, s`            weights and biases ``(k, d)`` of k networks, and their scales ``(k, 2L)``: weights of layer
                        1, inputs of layer 1, weights of layer 2, and so on
:math:`b`               bits a number
:math:`Q_-, Q_+`        lowest and highest whole number, ``low`` and ``high``: :math:`-2^{b-1}, 2^{b-1} - 1` for
                        weights, :math:`0, 2^b - 1` for inputs
:math:`\rho`            radius of the perturbation; 0 is training without flatness (LSQ)
:math:`K, \tau`         ``window`` of steps, and ``threshold`` of the disorder
:math:`\delta_i`        gradient disorder of scale i
======================= ========================================================================================

.. math:: \hat x = s \cdot \mathrm{round}(\mathrm{clip}(x / s, Q_-, Q_+)), \qquad
   \frac{\partial \hat x}{\partial s} \approx \begin{cases} \mathrm{round}(x / s) - x / s & \text{inside} \\
   Q_\pm & \text{outside,} \end{cases} \qquad \frac{\partial \hat x}{\partial x} \approx 1 \text{ inside, } 0
   \text{ outside,}

.. math:: g = \nabla L(w, s), \quad \tilde g = \nabla L\Big(w + \rho \frac{g_w}{|g_w|}, s\Big), \quad
   \delta_i = \frac1{K - 1} \sum_{t=2}^K \big[\mathrm{sign}\, g_i^{(t)} \ne \mathrm{sign}\, g_i^{(t-1)}\big] .

Training descends along :math:`g + \tilde g`. Every K steps the scales with :math:`\delta_i < \tau` are frozen: for the
next K steps they follow :math:`\tilde g_i` alone. Then all is judged again.

Guarantee: a quantised tensor has at most :math:`2^b` values. The slopes are those of "learned step size quantisation"
(LSQ), not derivatives: rounding has slope 0 or none, and is taken to have slope 1. With :math:`\rho = 0` both gradients
are equal. That freezing helps on unseen domains is the paper's experiment; here it does not.

Not reproduced: PACS, DomainNet, ResNets, and the gain of up to 4.5 percent. We have read the abstract and reviews of
the paper, not its equations: the disorder, and which scales are frozen, are as the reviews describe them; K, the
threshold and the sum of both gradients are ours. LSQ is as in Esser et al. 2020, arXiv 1902.08153.

Reference: Jiang, Meng, Tang, Yu, Li, Wang and Zhu: GAQAT: gradient-adaptive quantization-aware training for domain
generalization, 2024, arXiv 2412.05551.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import log_softmax

from paperlab import data
from paperlab.arguments import positive, whole_number
from paperlab.claims import Claim, Control, Observation
from paperlab.exercises import Exercise
from paperlab.reproducible import reproducible
from paperlab.tools.domains import rotate
from paperlab.tools.perturbation import sam_perturbation
from paperlab.tools.stacked_networks import random_weights, split_layers

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from paperlab.widgets import Explorer


class Quantize(torch.autograd.Function):
    """``Quantize.apply(x, s, low, high)``: ``x`` ``(..., n, m)`` rounded to multiples, ``low`` to ``high``, of ``s``.

    ``s``, ``low`` and ``high`` are ``(..., 1, 1)``. The gradients are those of LSQ; that of a scale is divided by
    ``sqrt(n m high)``, so that scales learn at the pace of weights.
    """

    @staticmethod
    def forward(context, x, s, low, high):
        v = x / s
        level = torch.minimum(torch.maximum(v, low), high).round()
        context.save_for_backward(v, level, low, high)
        # s round(clip(x / s, low, high))
        return s * level

    @staticmethod
    def backward(context, g):
        v, level, low, high = context.saved_tensors
        inside = (v > low) & (v < high)
        # d/ds: round(x / s) - x / s inside, low or high outside
        slope = torch.where(inside, level - v, level)
        g_scale = (g * slope).sum(dim=(-2, -1), keepdim=True) / (v.shape[-2] * v.shape[-1] * high) ** 0.5
        # d/dx: 1 inside, 0 outside
        return g * inside, g_scale, None, None


def limits(bits: Float[Tensor, " k"], signed: bool) -> tuple[Tensor, Tensor]:
    """The lowest and the highest whole number, ``(k, 1, 1)`` each. Raises ``ValueError`` for less than 2 bits."""
    if not (bits >= 2).all():
        raise ValueError(f"bits={bits.tolist()} must be at least 2")
    count = 2.0 ** bits[:, None, None]
    return (-count / 2, count / 2 - 1) if signed else (0 * count, count - 1)


def initial_scales(w: Float[Tensor, "k d"], X: Float[Tensor, "k n p"], widths, bits) -> Float[Tensor, "k m"]:
    """Scales that suit these weights and the first 100 rows of ``X``."""
    inputs, scales = X[:, :100], []
    for W, bias in split_layers(w, widths):
        for x, signed in ((W, True), (inputs, False)):
            # s = 2 mean |x| / sqrt(high)
            scales.append(2 * x.abs().mean(dim=(1, 2)) / limits(bits, signed)[1][:, 0, 0] ** 0.5)
        inputs = torch.relu(inputs @ W.mT + bias)
    return torch.stack(scales, dim=1)


def network(w, s: Float[Tensor, "k m"], X: Float[Tensor, "k n p"], widths, bits) -> Float[Tensor, "k n c"]:
    """Logits of ReLU networks whose weights and inputs of layers are quantised; biases are not."""
    z = X
    for i, (W, bias) in enumerate(split_layers(w, widths)):
        W_hat = Quantize.apply(W, s[:, 2 * i, None, None], *limits(bits, True))
        inputs = Quantize.apply(torch.relu(z) if i else z, s[:, 2 * i + 1, None, None], *limits(bits, False))
        z = inputs @ W_hat.mT + bias
    return z


def mean_loss(w, s, X, y: Int[Tensor, "k n"], widths, bits) -> Float[Tensor, " k"]:
    """The cross-entropy in nats, mean over the images, of each network."""
    return -log_softmax(network(w, s, X, widths, bits), dim=-1).gather(-1, y[..., None])[..., 0].mean(dim=-1)


def gradients(w, s, *batch) -> tuple[Tensor, Tensor]:
    """Of the loss, in the weights and in the scales; ``batch``: the further arguments of ``mean_loss``."""
    w, s = w.detach().requires_grad_(), s.detach().requires_grad_()
    return torch.autograd.grad(mean_loss(w, s, *batch).sum(), (w, s))


def both_gradients(w, s, rho: Float[Tensor, " k"], *batch):
    """Task gradient and smoothness gradient, each in the weights and in the scales. Only weights are perturbed."""
    task = gradients(w, s, *batch)
    # w + rho g_w / |g_w|
    moves = [sam_perturbation(g, r) if r else 0 * g for g, r in zip(task[0], rho.tolist(), strict=True)]
    return task, gradients(w + torch.stack(moves), s, *batch)


def disorder(g: Float[Tensor, "steps ..."]) -> Float[Tensor, " ..."]:
    """How often the sign changes from step to step, as a share. Raises ``ValueError`` for less than two steps."""
    if len(g) < 2:
        raise ValueError(f"g has {len(g)} steps; at least two are needed")
    # sum_t [sign g_t != sign g_(t-1)] / (K - 1)
    return (g[1:].sign() != g[:-1].sign()).double().mean(dim=0)


def train(X, y, w, widths, bits, rng, *, rho, freezes, window=20, threshold=0.3, steps=120, lr=3e-3):
    """Train ``k`` networks at once, each on its own data, by Adam on batches of 48.

    ``X``: ``(k, n, p)``, ``y``: ``(k, n)``, ``w``: ``(k, d)``. ``rng`` shuffles. ``bits``, ``rho`` and ``freezes``,
    which says who uses GAQAT, are ``(k,)``. Returns weights, scales, and their history ``(steps, k, m)``: task
    gradients, smoothness gradients, and what was frozen. Raises ``ValueError`` for bad numbers.
    """
    lr, window, queue, rows = positive("lr", lr), whole_number("window", window, 2), [], []
    values = [w, initial_scales(w, X, widths, bits)]
    first, second = ([torch.zeros_like(each) for each in values] for _ in range(2))
    frozen = torch.zeros_like(values[1], dtype=torch.bool)
    for step in range(1, whole_number("steps", steps, 1) + 1):
        queue = queue if len(queue) >= min(48, y.shape[1]) else rng.permutation(y.shape[1])
        batch, queue = torch.tensor(queue[:48]), queue[48:]
        (g_w, g_s), (h_w, h_s) = both_gradients(*values, rho, X[:, batch], y[:, batch], widths, bits)
        rows.append((g_s, h_s, frozen))
        # weights: g + g~;  scales: g~ alone where frozen
        for i, update in enumerate((g_w + h_w, torch.where(frozen, 0.0, g_s) + h_s)):
            # Adam
            first[i], second[i] = 0.9 * first[i] + 0.1 * update, 0.999 * second[i] + 0.001 * update**2
            values[i] = values[i] - lr * first[i] / (1 - 0.9**step) / ((second[i] / (1 - 0.999**step)).sqrt() + 1e-8)
        # A scale must stay positive.
        values[1] = values[1].clamp_min(1e-4)
        if step % window == 0:
            recent = disorder(torch.stack([row[0] for row in rows[-window:]]))
            frozen = freezes[:, None] & (recent < threshold)
    return *values, tuple(map(torch.stack, zip(*rows, strict=True)))


def domains(k: int, n: int, n_new: int, rng: np.random.Generator) -> list[tuple[Tensor, Tensor]]:
    """``k`` draws of digits, images and labels: ``n`` to train on, ``n_new`` others, and the others at 40 degrees.

    The first two have each digit at 0, 15 and -15 degrees.
    """
    images, labels = data.digits()
    rows, y = np.stack([rng.permutation(len(labels))[: n + n_new] for _ in range(k)]), torch.tensor(labels)
    turned = {a: torch.tensor(rotate(images.reshape(-1, 8, 8), a).reshape(-1, 64)) for a in (0, 15, -15, 40)}
    parts = (rows[:, :n], (0, 15, -15)), (rows[:, n:], (0, 15, -15)), (rows[:, n:], (40,))
    return [(torch.cat([turned[a][i] for a in angles], dim=1), y[i].repeat(1, len(angles))) for i, angles in parts]


DRAWS, WIDTHS, WINDOW, THRESHOLD = 4, (64, 32, 32, 10), 20, 0.3
ARMS = "SAM 0.05", "SAM 0.2", "GAQAT", "GAQAT, 8 bits"
ARM_BITS, ARM_RADII, ARM_FREEZES = (3, 3, 3, 8), (0.05, 0.2, 0.2, 0.2), (False, False, True, True)


@dataclass(frozen=True, eq=False)
class Experiment:
    """Four draws of 300 digits at three angles, learnt in each of ``ARMS``, with 3 bits unless it says otherwise.

    ``conflict``: share of scales and steps whose two gradients differ in sign, of each draw. ``against``: share that
    is moved against the smoothness gradient, after the first window, of each draw. ``frozen``: share, after the first
    window. ``later``: mean disorder in the window after, of scales that are steady and of the others. ``accuracy``:
    percent on new digits, at the angles of training and at 40 degrees. ``signs``: of the task gradients in the first
    draw, a third as large where frozen.
    """

    conflict: dict[str, Float[np.ndarray, " draws"]]
    against: dict[str, Float[np.ndarray, " draws"]]
    frozen: dict[str, float]
    later: dict[str, tuple[float, float]]
    accuracy: dict[str, Float[np.ndarray, " 2"]]
    signs: dict[str, Float[np.ndarray, "scales steps"]]


@reproducible()
def experiment(seed: int = 0) -> Experiment:
    """16 trainings of 120 steps at once."""
    rng = np.random.default_rng(np.random.SeedSequence(seed).spawn(1)[0])
    sets = [[each.repeat(len(ARMS), *[1] * (each.ndim - 1)) for each in pair] for pair in domains(DRAWS, 300, 300, rng)]
    arms = (torch.tensor(each).repeat_interleave(DRAWS) for each in (ARM_BITS, ARM_RADII, ARM_FREEZES))
    w, (bits, rho, freezes) = torch.tensor(random_weights(WIDTHS, DRAWS, rng)).repeat(len(ARMS), 1), arms
    w, s, history = train(*sets[0], w, WIDTHS, bits, rng, rho=rho, freezes=freezes)
    right = [(network(w, s, X, WIDTHS, bits).argmax(dim=-1) == y).double().mean(dim=1) for X, y in sets[1:]]
    found = {name: {} for name in ("conflict", "against", "frozen", "later", "accuracy", "signs")}
    for i, name in enumerate(ARMS):
        rows = slice(i * DRAWS, (i + 1) * DRAWS)
        task, smooth, frozen = (each[:, rows] for each in history)
        applied = torch.where(frozen, 0.0, task) + smooth
        windows = torch.stack([disorder(each) for each in task.split(WINDOW)])
        steady, after = windows[:-1] < THRESHOLD, windows[1:]
        found["conflict"][name] = (task.sign() != smooth.sign()).double().mean(dim=(0, 2)).numpy()
        found["against"][name] = (applied.sign() != smooth.sign())[WINDOW:].double().mean(dim=(0, 2)).numpy()
        found["frozen"][name] = float(frozen[WINDOW:].double().mean())
        found["later"][name] = (float(after[steady].mean()), float(after[~steady].mean()))
        found["accuracy"][name] = 100 * np.array([each[rows].mean() for each in right])
        found["signs"][name] = (task.sign() * torch.where(frozen, 1 / 3, 1.0))[:, 0].T.numpy()
    return Experiment(**found)


def claims(result: Experiment) -> tuple[Claim | Observation, ...]:
    """What the paper says, in numbers of one run."""
    cost = result.accuracy["GAQAT, 8 bits"] - result.accuracy["GAQAT"]
    return (
        Claim(
            id="conflict",
            statement="At low precision the two gradients of a scale often disagree, the more the further SAM looks",
            source="abstract: scale-gradient conflict",
            quantity="share of scales and steps with different signs, mean of 4 draws, 3 bits, radius 0.2",
            unit="",
            measured=float(result.conflict["SAM 0.2"].mean()),
            relation=">=",
            bound=0.16,
            control=Control("radius 0.05", float(result.conflict["SAM 0.05"].mean()), "ablation"),
        ),
        Claim(
            id="selective",
            statement="Freezing is selective: it meets the scales of low precision, whose task gradients are steady",
            source="selective freezing by gradient disorder",
            quantity="share of scales that are frozen after the first window, mean of 4 draws",
            unit="",
            measured=result.frozen["GAQAT"],
            relation=">=",
            bound=0.3,
            control=Control("the same with 8 bits", result.frozen["GAQAT, 8 bits"], "assumption violated"),
        ),
        Claim(
            id="persistent",
            statement="A scale that was steady stays steady, so that what a window shows is worth acting on",
            source="windows of gradient disorder; here tested on the next window",
            quantity="disorder in the next window of 20 steps",
            unit="",
            measured=result.later["GAQAT"][0],
            relation="<=",
            bound=0.26,
            control=Control("scales that were not steady", result.later["GAQAT"][1], "baseline"),
        ),
        Claim(
            id="against",
            statement="Freezing lets the smoothness gradient decide about scales",
            source="abstract: freezing resolves the conflict",
            quantity="share of scales and steps moved against the smoothness gradient, mean of 4 draws",
            unit="",
            measured=float(result.against["GAQAT"].mean()),
            relation="<=",
            bound=0.075,
            control=Control(
                "SAM with the same radius, nothing frozen", float(result.against["SAM 0.2"].mean()), "ablation"
            ),
        ),
        Observation(
            "Accuracy at the unseen angle with 3 bits, in percent: GAQAT, SAM with the same radius",
            float(result.accuracy["GAQAT"][1]),
            float(result.accuracy["SAM 0.2"][1]),
            "The paper's gain. Here either is better, depending on the draw: no claim.",
        ),
        Observation(
            "What 3 instead of 8 bits cost, in percentage points: at the unseen angle, at the angles of training",
            float(cost[1]),
            float(cost[0]),
            "The paper: networks trained to be flat degrade when quantised. Here the unseen angle suffers no more.",
        ),
    )


def exercises() -> tuple[Exercise, ...]:
    """One to implement, one to experiment with, one to think about."""

    def scale_gradient(g, x, s, low, high, *, clips=True, divides=True):
        v = x / s
        slope = np.where((v > low) & (v < high) | (not clips), v.round() - v, v.clip(low, high))
        return float((g * slope).sum() / (np.sqrt(x.size * high) if divides else 1))

    def cases(rng):
        sizes = ((2, 3, 1.0, -2, 1), (4, 5, 0.5, -4, 3), (6, 4, 0.3, 0, 7))
        return [(*rng.normal(size=(2, n, m)), s, low, high) for n, m, s, low, high in sizes]

    return (
        Exercise(
            id="scale_gradient",
            task="Write `scale_gradient(g, x, s, low, high)` in NumPy: the gradient of LSQ in the scale, a number. `x` "
            "is `(n, m)`, `g` the gradient of the loss in the quantised `x`. Divide by `sqrt(n m high)`.",
            solution=scale_gradient,
            cases=cases,
            slips={
                "Outside the grid the slope is low or high, not a rounding error.": partial(
                    scale_gradient, clips=False
                ),
                "The division by sqrt(n m high) is missing.": partial(scale_gradient, divides=False),
            },
            difficulty=2,
        ),
        Exercise(
            id="indifferent",
            task="At half the learned scale and with one number of bits, doubling the scale changes the loss, by the "
            "task gradient, by less than 0.05 nats in each layer of the explorer. Bind that number to `indifferent`.",
            solution=lambda: 8,
            slips={
                "Look at layer 3 with 4 bits: by the task gradient the loss falls by 0.3 nats.": lambda: 4,
            },
            minutes=5,
            kind="experiment",
            answer="With 8 bits, half the learned scale still reaches all weights; with fewer it clips many.",
        ),
        Exercise(
            id="noise",
            task="With 8 bits the task gradient changes sign at every second step or so. Why? (a) Large learning rate. "
            "(b) Inside the grid slopes are rounding errors. (c) Most weights are clipped. Bind the letter to `noise`.",
            solution=lambda: "b",
            slips={
                "In a 3-bit network the same learning rate gives steady signs.": lambda: "a",
                "With 256 levels no weight is clipped. Clipped ones would pull one way.": lambda: "c",
            },
            minutes=5,
            kind="think",
            answer="Rounding errors have no preferred sign. Clipped weights pull one way, and with 8 bits none is.",
        ),
    )


def figure(result: Experiment) -> go.Figure:
    """Signs of task gradients over time with 3 and with 8 bits, and shares of scales in conflict."""
    from paperlab.figures import theme
    from paperlab.figures.panels import Panel, heat_map, panels, points

    names = [f"{what} {layer}" for layer in (1, 2, 3) for what in ("weights", "inputs")]
    options = {"zmin": -1, "zmax": 1, "colorscale": theme.DIVERGING, "showscale": False}
    maps = [heat_map(result.signs[name], title="", y=names, **options) for name in ARMS[2:]]
    arms = np.repeat(ARMS, DRAWS)
    conflict, against = (100 * np.concatenate([*part.values()]) for part in (result.conflict, result.against))
    shares = [
        points("signs differ", arms, conflict, theme.BLACK),
        points("moved against smoothness", arms, against, theme.GREEN, symbol="diamond"),
    ]
    return panels(
        Panel("GAQAT, 3 bits", maps[:1], "step", "scale"),
        Panel("GAQAT, 8 bits", maps[1:], "step", "scale", {}, {"showticklabels": False}),
        Panel("conflict", shares, "method", "scales and steps, %", {"tickangle": -40}, {"range": [0, 60]}),
        title="Signs of the task gradients (blue −, orange +, pale: frozen), and conflict",
        gap=0.09,
    )


BITS, RADII, FACTORS, GRID = (2, 3, 4, 8), (0.05, 0.1, 0.2, 0.4), (0.5, 0.7, 1.0, 1.4), np.geomspace(0.35, 2.8, 13)


@cache
@reproducible()
def explorer_networks():
    """Weights and scales for each number of bits, trained by SAM with radius 0.2; and 150 new digits with labels."""
    rng, k = np.random.default_rng(0), len(BITS)
    (X, y), new, _ = domains(1, 300, 50, rng)
    same = [each.expand(k, *each.shape[1:]) for each in (X, y, torch.tensor(random_weights(WIDTHS, 1, rng)))]
    w, s, _ = train(*same, WIDTHS, torch.tensor(BITS), rng, rho=torch.full((k,), 0.2), freezes=torch.zeros(k) > 0)
    return w[:, None], s[:, None], new


def explorer() -> Explorer:
    """A layer's weights on their grid, and both losses when the scale of the grid changes."""
    from paperlab.figures import theme
    from paperlab.figures.panels import Panel, line, panels, points
    from paperlab.widgets import Choice, Explorer

    @reproducible()
    def compute(context, bits: int, layer: int, factor: float, rho: float) -> dict:
        (w, learned), (X, y), b = (each[BITS.index(bits)] for each in context[:2]), context[2], torch.tensor([bits])
        place = 2 * layer - 2
        # Row 0 has the chosen scale, the others go along the grid.
        s = learned.repeat(1 + len(GRID), 1)
        s[:, place] *= torch.tensor([factor, *GRID])
        (g_w, g), (_, h) = both_gradients(w, s[:1], torch.tensor([rho]), X, y, WIDTHS, b)
        weights = torch.cat([w, w + sam_perturbation(g_w, rho)])[:, None].expand(-1, len(s), -1)
        sets = [each.expand(len(s), *each.shape[1:]) for each in (X, y)]
        W, scale, (low, high) = split_layers(w, WIDTHS)[layer - 1][0], s[:1, place, None, None], limits(b, True)
        # The slope per doubling of the scale, without the division by sqrt(n m high)
        unit = float(scale * np.log(2) * (W.numel() * high) ** 0.5)
        x = W.flatten()[::4].sort().values
        return {
            "weights": (x.numpy(), Quantize.apply(x[None, None], scale, low, high)[0, 0].numpy()),
            "losses": [mean_loss(v, s, *sets, WIDTHS, b.expand(len(s))).numpy() for v in weights],
            "slopes": [unit * float(each[0, place]) for each in (g, h)],
            "factor": factor,
        }

    def draw(state) -> go.Figure:
        grid = [points("weights of the layer", *state["weights"], theme.BLACK, size=5, opacity=0.5)]
        curves, ends = [], np.array([0.7, 1 / 0.7])
        looks = ("loss", "task gradient", theme.BLUE), ("loss at moved weights", "smoothness gradient", theme.VERMILION)
        for (name, slope_name, colour), loss, slope in zip(looks, state["losses"], state["slopes"], strict=True):
            curves.append(line(name, GRID, loss[1:], colour))
            tangent = loss[0] + slope * np.log2(ends)
            curves.append(line(slope_name, state["factor"] * ends, tangent, colour, dash="dot", mode="lines+markers"))
        x_axis = {"type": "log", "range": [-0.47, 0.47], "tickvals": [0.5, 0.7, 1, 1.4, 2]}
        return panels(
            Panel("the grid of the layer", grid, "weight", "quantised weight", *2 * [{"range": [-0.7, 0.7]}]),
            Panel("over the scale", curves, "scale / learned scale", "mean loss, nats", x_axis, {"range": [0.4, 2.4]}),
        )

    def describe(values, state) -> str:
        task, smooth = state["slopes"]
        return (
            f"By the gradients, doubling the scale changes the loss by {task:+.3f} nats, the loss at moved weights by "
            f"{smooth:+.3f} nats. The two {'agree' if task * smooth > 0 else 'disagree'}."
        )

    return Explorer(
        controls=(
            Choice("bits", "bits a number", BITS, default=4),
            Choice("layer", "layer", (1, 2, 3), default=2),
            Choice("factor", "scale / learned scale", FACTORS, default=0.7),
            Choice("rho", "radius of the perturbation", RADII, default=0.4),
        ),
        prepare=explorer_networks,
        compute=compute,
        draw=draw,
        describe=describe,
        notice=(
            "Lower the radius to 0.05: both curves, and both slopes, come together.",
            "Set the scale to 0.5 with 3 bits: weights are clipped, and both slopes ask for a larger scale.",
            "Set the bits to 8: both curves are flat, and the sign of a slope means nothing.",
        ),
        name="gaqat",
    )
