r"""Make up the worst image near each of yours, and ask that the network reacts to it as to the original.

A classifier will be used on images that differ from its training images: turned, pale, noisy. Those *unseen domains*
are unknown. Sharpness-aware minimisation (SAM) moves the weights to where the loss rises, and asks for a small loss
there. UDIM moves the images, too. Each image goes a small distance to where loss and sharpness rise most; the result
stands for an unknown domain. Then the gradients of the last layer are made alike on both sets of images.

======================= ========================================================================================
symbol                  here
======================= ========================================================================================
:math:`w`               weights :math:`\theta`, ``(..., d)``: one flat vector, or a stack of networks trained at once
:math:`\phi_i, z_i`     features (outputs of the last hidden layer, and a 1 for the bias) and logits of image i
:math:`\rho, \rho_x`    distance that the weights and that each image is moved
:math:`g_i`             gradient of the loss of image i in the last layer; :math:`\tilde g_i` at the moved image
:math:`\mu`             mean of :math:`g_i` over the images as they are
:math:`\lambda`         weight of the inconsistency, ``lam``; 0 is SAM
======================= ========================================================================================

.. math:: \tilde x = x + \rho_x \frac{\nabla_x \ell}{|\nabla_x \ell|}, \quad
   \ell(x) = L(w; x) + \rho\, |\nabla_w L(w; x)|, \qquad
   V = \tfrac1n \sum_i (g_i - \mu)^2, \quad \tilde V = \tfrac1n \sum_i (\tilde g_i - \mu)^2,

.. math:: w \leftarrow w - \eta \Big[\nabla L(w + \epsilon; x) + \lambda \nabla_w
   \Big(\mathrm{mean} \big(\tfrac{V - \tilde V}2\big)^2 + \mathrm{mean}_i\, \tfrac{|\tilde g_i|^2}{\dim}\Big)\Big],
   \quad \epsilon = \rho \frac{\nabla_w L}{|\nabla_w L|} .

The moved images are constants for the gradient, and both variances are centred at the same :math:`\mu`.

Guarantee: :math:`g_i = (\mathrm{softmax}(z_i) - e_{y_i})\, \phi_i^\top` exactly, so that the moments of these gradients
are products of matrices. The inconsistency is never negative. The paper bounds the loss on an unknown domain by a SAM
loss and the inconsistency; that theorem is not checked here.

Not reproduced: photographs, drawings and ResNets (PACS, OfficeHome); images moved in style instead of pixels; combining
UDIM with further SAM variants. The step is that of the official code, except that each image is moved by the same
distance, as in the paper; the code divides by norms over the batch, pixel by pixel. Its weight :math:`\lambda` is 1.

Reference: Shin, Bae, Na, Kim and Moon: Unknown Domain Inconsistency Minimization for Domain Generalization, ICLR 2024,
arXiv 2403.07329.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, normalize, one_hot, pad

from paperlab import data
from paperlab.arguments import positive, whole_number
from paperlab.claims import Claim, Control, Observation
from paperlab.exercises import Exercise
from paperlab.reproducible import reproducible
from paperlab.tools.domains import unseen_domains
from paperlab.tools.per_sample import per_sample_gradients
from paperlab.tools.perturbation import sam_perturbation
from paperlab.tools.stacked_networks import random_weights, split_layers

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from paperlab.widgets import Explorer


def network(w: Float[Tensor, "... d"], X: Float[Tensor, "... n p"], widths: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Features ``(..., n, h)`` and logits ``(..., n, c)`` of ReLU networks; leading axes are broadcast.

    Raises ``ValueError`` if ``w`` has another length than the widths ask for.
    """
    z, features = X, X
    for i, (W, b) in enumerate(split_layers(w, widths)):
        features = torch.relu(z) if i else z
        z = features @ W.mT + b
    return features, z


def mean_loss(w, X: Float[Tensor, "... n p"], y: Int[Tensor, "... n"], widths) -> Float[Tensor, " ..."]:
    """The cross-entropy in nats, mean over the images, of each network."""
    z = network(w, X, widths)[1]
    return -log_softmax(z, dim=-1).gather(-1, y.expand(z.shape[:-1])[..., None])[..., 0].mean(dim=-1)


def gradient(function: Callable, w: Float[Tensor, "... d"], *arguments) -> Float[Tensor, "... d"]:
    """The gradient of ``function(w, *arguments)`` in the weights; networks of a stack do not know of each other."""
    w = w.detach().requires_grad_()
    return torch.autograd.grad(function(w, *arguments).sum(), w)[0]


def worst_case_inputs(w: Float[Tensor, "... d"], X, y, widths, rho: float, rho_x) -> tuple[Tensor, Tensor]:
    """Each image moved by ``rho_x`` to where loss and sharpness rise most, ``(..., n, p)``, and the gradient of the
    loss of the images as they are, ``(..., d)``. Differentiates twice.

    ``rho_x``: a number, or one for each network ``(..., 1, 1)``. Raises ``ValueError`` unless both distances are
    positive.
    """
    positive("rho", rho)
    positive("rho_x", float(torch.as_tensor(rho_x).min()))
    w, X = w.detach().requires_grad_(), X.expand(*w.shape[:-1], *X.shape[-2:]).detach().requires_grad_()
    loss = mean_loss(w, X, y, widths)
    (g,) = torch.autograd.grad(loss.sum(), w, create_graph=True)
    # l = L + rho |grad_w L|
    (upward,) = torch.autograd.grad((loss + rho * g.norm(dim=-1)).sum(), X)
    # x + rho_x grad_x l / |grad_x l|
    return (X + rho_x * normalize(upward, dim=-1)).detach(), g.detach()


def head_moments(features: Float[Tensor, "... n h"], z: Float[Tensor, "... n c"], y: Int[Tensor, "... n"]):
    """Mean and mean square of the gradients of single images in the last layer, both ``(..., c, h + 1)``.

    The last column belongs to the biases. No gradient is ever formed.
    """
    phi, n = pad(features, (0, 1), value=1.0), z.shape[-2]
    residual = z.softmax(dim=-1) - one_hot(y, z.shape[-1])
    # g_i = (softmax(z_i) - e_y) phi_i^T, entry by entry; so mean g = R^T Phi / n and mean g^2 = (R^2)^T Phi^2 / n
    return residual.mT @ phi / n, (residual**2).mT @ phi**2 / n


def variances(source: tuple[Tensor, Tensor], moved: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Mean squares around the mean of the first set of gradients, of both sets, from their moments."""
    (mu, square), (mean_moved, square_moved) = source, moved
    # mean (g - mu)^2 = mean g^2 - 2 mu mean g + mu^2
    return square - mu**2, square_moved - 2 * mu * mean_moved + mu**2


def mismatch(source: tuple[Tensor, Tensor], moved: tuple[Tensor, Tensor]) -> Float[Tensor, " ..."]:
    """How the variances of the gradients differ, from their moments."""
    V, V_moved = variances(source, moved)
    # mean ((V - V~) / 2)^2
    return ((V - V_moved) / 2).square().mean(dim=(-2, -1))


def inconsistency(w, x, moved, y, widths, matching: float = 1.0) -> Float[Tensor, " ..."]:
    """What UDIM adds to the loss of SAM. ``x``: images as they are, ``moved``: the same at the worst place.

    ``matching``: weight of the first part; with 0 the size of the gradients remains.
    """
    source, other = (head_moments(*network(w, each, widths), y) for each in (x, moved))
    # mean_i |g~_i|^2 / dim, for the weights and for the biases
    size = other[1][..., :-1].mean(dim=(-2, -1)) + other[1][..., -1].mean(dim=-1)
    return matching * mismatch(source, other) + size


def moved_loss(w, x, moved, y, widths) -> Float[Tensor, " ..."]:
    """To compare with: the cross-entropy of the moved images."""
    return mean_loss(w, moved, y, widths)


def train(X, y, w, widths, rng, *, lam=3.0, rho=0.05, rho_x=0.5, penalty=inconsistency, blind=None, steps=60, lr=5e-3):
    """Train ``k`` networks at once, each on its own data, by Adam on batches of 50; returns their weights ``(k, d)``.

    ``X``: ``(k, n, p)``, ``y``: ``(k, n)``, ``w``: ``(k, d)``. ``rng`` shuffles. ``lam``: weight of the penalty, a
    number or ``(k,)``. ``rho``: 0 is plain training. ``rho_x``: a number or ``(k, 1, 1)``. ``penalty``: a function
    like ``inconsistency``; None is SAM. ``blind``: a generator that draws the directions of the moves, which are then
    no worst case. Raises ``ValueError`` for bad numbers.
    """
    n, first, second, queue = y.shape[1], torch.zeros_like(w), torch.zeros_like(w), []
    lam, lr = torch.as_tensor(lam).expand(len(w))[:, None], positive("lr", lr)
    if not (lam >= 0).all():
        raise ValueError(f"lam={lam.flatten().tolist()} must not be negative")
    for step in range(1, whole_number("steps", steps, 1) + 1):
        queue = queue if len(queue) >= min(50, n) else rng.permutation(n)
        rows, queue = torch.tensor(queue[:50]), queue[50:]
        x, labels = X[:, rows], y[:, rows]
        if penalty is None or blind is not None:
            g = gradient(mean_loss, w, x, labels, widths)
        else:
            moved, g = worst_case_inputs(w, x, labels, widths, rho, rho_x)
        if blind is not None:
            moved = x + rho_x * normalize(torch.tensor(blind.normal(size=x.shape)), dim=-1)
        # SAM: grad L(w + rho g / |g|)
        uphill = w + torch.stack([sam_perturbation(each, rho) for each in g]) if rho else w
        update = gradient(mean_loss, uphill, x, labels, widths)
        if penalty is not None:
            # + lambda times the gradient of the inconsistency, at w
            update = update + lam * gradient(penalty, w, x, moved, labels, widths)
        # Adam
        first, second = 0.9 * first + 0.1 * update, 0.999 * second + 0.001 * update**2
        w = w - lr * first / (1 - 0.9**step) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
    return w


def draws(k: int, n: int, n_new: int, rng: np.random.Generator):
    """``k`` draws of ``n`` digits to train on and ``n_new`` others: images and labels, images and labels."""
    images, labels = (torch.tensor(each) for each in data.digits())
    rows = torch.tensor(np.stack([rng.permutation(len(labels))[: n + n_new] for _ in range(k)]))
    return images[rows[:, :n]], labels[rows[:, :n]], images[rows[:, n:]], labels[rows[:, n:]]


DRAWS, IMAGES, NEW, WIDTHS, RHO, RHO_X = 5, 600, 400, (64, 32, 32, 10), 0.05, 0.5
DOMAINS = "as they are", "turned left", "turned right", "low contrast", "shifted", "noisy"
SIZE_ONLY = partial(inconsistency, matching=0.0)
# What is added to SAM, by method; "plain" is without SAM, too
ARMS = {"plain": None, "SAM": None, "UDIM": inconsistency, "random": inconsistency, "CE": moved_loss, "size": SIZE_ONLY}
LENGTHS = np.linspace(0, 1, 9)


@dataclass(frozen=True, eq=False)
class Experiment:
    """Five draws of 600 digits, learnt by each method in ``ARMS``; all measured on 400 new digits a draw.

    ``accuracy``: percent in each of ``DOMAINS``, mean over the draws. ``losses``: in nats, mean over the draws, of new
    digits that were moved by ``LENGTHS`` along their worst directions. ``mismatch``: root of the mean squared
    difference of the variances, of each draw. ``closed_form``: relative distances of the variances, and of those with
    the wrong centre, from the ones by backpropagation.
    """

    accuracy: dict[str, Float[np.ndarray, " domains"]]
    losses: dict[str, Float[np.ndarray, " lengths"]]
    mismatch: dict[str, Float[np.ndarray, " draws"]]
    closed_form: tuple[float, float]


def in_domains(X: Float[Tensor, "... 64"], rng: np.random.Generator) -> Float[Tensor, "domains ... 64"]:
    """The digits as they are and in the five unseen domains."""
    return torch.stack([X, *map(torch.tensor, unseen_domains(X.numpy(), rng).values())])


def backpropagated_variance(w_head: Float[Tensor, " m"], both: list, y) -> Float[Tensor, " m"]:
    """The variance at the moved images, from one gradient of the last layer an image. ``both``: features."""
    head = torch.nn.Linear(WIDTHS[-2], WIDTHS[-1])
    torch.nn.utils.vector_to_parameters(w_head, head.parameters())
    g, moved = (per_sample_gradients(head, cross_entropy, features, y) for features in both)
    return (moved - g.mean(dim=0)).square().mean(dim=0)


@reproducible()
def experiment(seed: int = 0) -> Experiment:
    """Five networks are trained by SAM for 40 steps, and from there by each of six methods for 60 steps."""
    rng, noise, blind = (np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(3))
    X, y, new_X, new_y = draws(DRAWS, IMAGES, NEW, rng)
    domains = in_domains(new_X, noise)
    w = train(X, y, torch.tensor(random_weights(WIDTHS, DRAWS, rng)), WIDTHS, rng, penalty=None, steps=40)
    order, blinds, accuracy, losses, differ, closed_form = rng.integers(2**32), {"random": blind}, {}, {}, {}, ()
    for name, penalty in ARMS.items():
        options = {"penalty": penalty, "blind": blinds.get(name), "rho": 0.0 if name == "plain" else RHO}
        end = train(X, y, w, WIDTHS, np.random.default_rng(order), **options)
        right = network(end, domains, WIDTHS)[1].argmax(dim=-1) == new_y
        accuracy[name] = 100 * right.double().mean(dim=(1, 2)).numpy()
        moves = worst_case_inputs(end, new_X, new_y, WIDTHS, RHO, 1.0)[0] - new_X
        losses[name] = np.array([float(mean_loss(end, new_X + r * moves, new_y, WIDTHS).mean()) for r in LENGTHS])
        both = [network(end, new_X + r * moves, WIDTHS) for r in (0, RHO_X)]
        source, moved = (head_moments(*each, new_y) for each in both)
        differ[name] = mismatch(source, moved).sqrt().numpy()
        if name == "UDIM":
            right, wrong = (variances(centre, moved)[1][0] for centre in (source, moved))
            right, wrong = (torch.cat([each[:, :-1].flatten(), each[:, -1]]) for each in (right, wrong))
            exact = backpropagated_variance(end[0, -len(right) :], [features[0] for features, _ in both], new_y[0])
            closed_form = tuple(max(float((each - exact).norm() / exact.norm()), 1e-17) for each in (right, wrong))
    return Experiment(accuracy, losses, differ, closed_form)


def claims(result: Experiment) -> tuple[Claim | Observation, ...]:
    """What the paper says, in numbers of one run."""
    gain = {name: float((each - result.accuracy["plain"])[1:].mean()) for name, each in result.accuracy.items()}
    gap = {name: float(each[LENGTHS == RHO_X][0] - each[0]) for name, each in result.losses.items()}
    differ = {name: float(np.exp(np.log(each).mean())) for name, each in result.mismatch.items()}
    return (
        Claim(
            id="closed_form",
            statement="Gradients of the last layer need no backpropagation: residual times features",
            source="official code: gradients of single images in the classifier",
            quantity="relative distance of the variances from those by backpropagation",
            unit="",
            measured=result.closed_form[0],
            relation="<=",
            bound=1e-8,
            control=Control("the moved images' own mean as centre", result.closed_form[1], "broken"),
            scale="log",
        ),
        Claim(
            id="gap",
            statement="The loss at worst-case images is nearer to the loss of the images as they are",
            source="objective: inconsistency between source and unknown domains",
            quantity="rise of the loss of new digits moved by 0.5 to the worst place, mean of 5 draws",
            unit="nats",
            measured=gap["UDIM"],
            relation="<=",
            bound=0.95,
            control=Control("UDIM trained with moves in random directions", gap["random"], "ablation"),
        ),
        Claim(
            id="matching",
            statement="The gradients of the last layer vary alike at both sets of images",
            source="objective: inconsistency by the variances of gradients",
            quantity="root mean square difference of the variances on new digits, geometric mean of 5 draws",
            unit="",
            measured=differ["UDIM"],
            relation="<=",
            bound=0.08,
            control=Control("SAM: the same without the inconsistency", differ["SAM"], "ablation"),
            scale="log",
        ),
        Claim(
            id="unseen",
            statement="UDIM classifies digits from unseen domains better than plain training; SAM does not",
            source="main result; here with domains made from digits",
            quantity="accuracy gained over plain training, mean of 5 unseen domains and 5 draws",
            unit="percentage points",
            measured=gain["UDIM"],
            relation=">=",
            bound=2.5,
            control=Control("SAM", gain["SAM"], "baseline"),
        ),
        Observation(
            "Accuracy gained on unseen domains, percentage points: UDIM; SAM plus cross-entropy of the moved images",
            gain["UDIM"],
            gain["CE"],
            "Learning the moved images does as well as matching gradients, and is simpler: no claim.",
        ),
        Observation(
            "Difference of the variances: UDIM; UDIM without the term that asks for it",
            differ["UDIM"],
            differ["size"],
            "Small gradients vary alike: at this scale the other term, their size, does the work.",
        ),
    )


def exercises() -> tuple[Exercise, ...]:
    """One to implement, one to experiment with, one to think about."""

    def head_gradients(z, features, y):
        p = torch.tensor(z).softmax(dim=1).numpy()
        return (p - np.eye(z.shape[1])[y])[:, :, None] * features[:, None, :]

    def cases(rng):
        sizes = ((2, 2, 1), (3, 4, 2), (6, 10, 5))
        return [(2 * rng.normal(size=(n, c)), rng.normal(size=(n, h)), rng.integers(0, c, n)) for n, c, h in sizes]

    return (
        Exercise(
            id="head_gradients",
            task="Write `head_gradients(z, features, y)` in NumPy: the gradient of the cross-entropy of each image in "
            "the last weight matrix, `(n, c, h)`. `z`: logits `(n, c)`; `features`: `(n, h)`; `y`: labels `(n,)`.",
            solution=head_gradients,
            cases=cases,
            slips={
                "The label is missing: subtract 1 from the probability of the right class.": lambda z, features, y: (
                    head_gradients(z, features, y) + np.eye(z.shape[1])[y][:, :, None] * features[:, None, :]
                ),
                "The sign is wrong: the loss falls when the right logit grows.": lambda *given: -head_gradients(*given),
            },
            difficulty=2,
        ),
        Exercise(
            id="helped",
            task="In the explorer, distance 0.5: which unseen domain gains most accuracy when the weight goes from 0 "
            "to 3? Bind its name, as on the control, to `helped`.",
            solution=lambda: "low contrast",
            slips={
                "Noise gains a few percent. Another domain gains more.": lambda: "noisy",
                "A shift moves all strokes. Moves of single pixels are no model of it.": lambda: "shifted",
            },
            minutes=5,
            kind="experiment",
            answer="Low contrast. Worst-case images are pale and noisy, and stand for such domains.",
        ),
        Exercise(
            id="random",
            task="Random directions hardly help. An image has 64 pixels. About how long is the part of a random move "
            "of length 1 along the worst direction? (a) 1/2. (b) 1/8. (c) 1/64. Bind the letter to `random`.",
            solution=lambda: "b",
            slips={
                "So much remains in 4 dimensions. Here are 64.": lambda: "a",
                "1/64 is its mean square. Its size is the root of that.": lambda: "c",
            },
            minutes=5,
            kind="think",
            answer="The squares of the 64 parts of a unit vector sum to 1: each is 1/64 on average, its root 1/8.",
        ),
    )


def figure(result: Experiment) -> go.Figure:
    """Accuracy by domain, and the loss of new images on the way to their worst places."""
    from paperlab.figures import theme
    from paperlab.figures.panels import Panel, line, panels, points

    names = {"UDIM": "UDIM", "SAM": "SAM", "CE": "SAM + cross-entropy of moved images", "random": "UDIM, random moves"}
    looks = ("circle", "solid", 15), ("square", "dash", 11), ("diamond", "dot", 8), ("cross", "dashdot", 8)
    by_domain, on_the_way = [], []
    for arm, colour, (symbol, dash, size) in zip(names, theme.COLOURS[:4], looks, strict=True):
        mark = {"mode": "lines+markers", "marker": {"symbol": symbol}}
        on_the_way.append(line(names[arm], LENGTHS, result.losses[arm], colour, dash=dash, **mark))
        by_domain.append(points("", DOMAINS, result.accuracy[arm], colour, symbol=symbol, size=size, showlegend=False))
    return panels(
        Panel("new digits, by domain", by_domain, "domain", "accuracy, %", {"tickangle": -30}, {"range": [30, 100]}),
        Panel(
            "moved to the worst place", on_the_way, "distance", "mean loss, nats", {"range": [0, 1]}, {"range": [0, 5]}
        ),
        title="Images made up at the worst place",
    )


LAMBDAS, DISTANCES, ALPHAS = (0.0, 3.0, 30.0), (0.25, 0.5, 1.0), np.linspace(-0.4, 0.4, 17)


@cache
@reproducible()
def explorer_networks() -> dict:
    """One network for each weight and distance, all from the same start; and 200 new digits in all domains."""
    rng = np.random.default_rng(0)
    X, y, new_X, new_y = draws(1, 400, 200, rng)
    w = train(X, y, torch.tensor(random_weights(WIDTHS, 1, rng)), WIDTHS, rng, penalty=None, steps=40)
    keys = [(0.0, RHO_X)] + [(lam, distance) for lam in LAMBDAS[1:] for distance in DISTANCES]
    lam, rho_x = torch.tensor(keys).double().T
    stack = (each.expand(len(keys), *each.shape[1:]) for each in (X, y, w))
    end = train(*stack, WIDTHS, rng, lam=lam, rho_x=rho_x[:, None, None])
    return {"w": dict(zip(keys, end, strict=True)), "X": in_domains(new_X[0], rng), "y": new_y[0]}


def explorer() -> Explorer:
    """An image, its worst case and an unseen one, and the losses of all three domains when the weights move."""
    from paperlab.figures import theme
    from paperlab.figures.panels import Panel, heat_map, line, panels
    from paperlab.widgets import Choice, Explorer

    @reproducible()
    def compute(context, lam: float, rho_x: float, domain: str, image: int) -> dict:
        w, y = context["w"][lam, rho_x if lam else RHO_X], context["y"]
        moved, g = worst_case_inputs(w, context["X"][0], y, WIDTHS, RHO, rho_x)
        X = torch.stack([context["X"][0], moved, context["X"][DOMAINS.index(domain)]])
        answers = network(w, X, WIDTHS)[1].argmax(dim=-1)
        return {
            "pictures": X[:, image].reshape(3, 8, 8).numpy(),
            "losses": mean_loss(
                w + torch.tensor(ALPHAS)[:, None] * normalize(g, dim=-1), X[:, None], y, WIDTHS
            ).numpy(),
            "accuracy": (100 * (answers == y).double().mean(dim=1)).tolist(),
            "answers": "The image shown is a {}; the answers are {}, {} and {}.".format(y[image], *answers[:, image]),
            "domain": domain,
        }

    def draw(state) -> go.Figure:
        pictures = np.pad(state["pictures"], ((0, 0), (0, 0), (0, 1)), constant_values=np.nan)
        tiles = heat_map(np.hstack(pictures)[:, :-1], title="", zmin=-0.4, zmax=1.2, showscale=False, hoverinfo="skip")
        looks = {"as they are": "solid", "worst case": "dash", "unseen": "dot"}
        by_set = zip(looks.items(), theme.COLOURS[:3], state["losses"], strict=True)
        curves = [line(name, ALPHAS, loss, colour, dash=dash) for (name, dash), colour, loss in by_set]
        names = {"tickvals": [3.5, 12.5, 21.5], "ticktext": ["as it is", "worst case", state["domain"]]}
        hidden, axes = {"autorange": "reversed", "visible": False}, ({"range": [-0.4, 0.4]}, {"range": [0, 4]})
        return panels(
            Panel("one image", [tiles], "8 × 8 pixels each", "", names, hidden, equal=True),
            Panel("200 new images", curves, "move of weights, uphill", "mean loss, nats", *axes),
            widths=(0.6, 0.4),
        )

    def describe(values, state) -> str:
        as_they_are, worst, unseen = state["accuracy"]
        return (
            f"Accuracy on new images: {as_they_are:.1f} % as they are, {worst:.1f} % at the worst place within "
            f"{values['rho_x']:g}, {unseen:.1f} % {values['domain']}. {state['answers']}"
        )

    return Explorer(
        controls=(
            Choice("lam", "weight λ of the inconsistency", LAMBDAS, default=3.0, names={0.0: "0 (SAM)"}),
            Choice("rho_x", "distance that images are moved", DISTANCES, default=RHO_X),
            Choice("domain", "unseen domain", DOMAINS[1:], default="low contrast"),
            Choice("image", "number of the image", (0, 1, 2, 3, 4), default=0),
        ),
        prepare=explorer_networks,
        compute=compute,
        draw=draw,
        describe=describe,
        notice=(
            "Set λ to 0: the dashed curve rises far above the solid one, and low contrast is answered badly.",
            "Go through the domains: turned and shifted digits gain little. Worst-case images look noisy, not turned.",
            "Set λ to 30: the curves come nearer still, but the solid one rises, and the accuracy falls.",
        ),
        name="udim",
    )
