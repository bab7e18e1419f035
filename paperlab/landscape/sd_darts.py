r"""Search an architecture by gradient descent, and let the network of the last epochs teach the present one.

DARTS trains one large network, the *supernet*. Each of its edges is a weighted sum of all operations that could stand
there; the weights of the sum, the *architecture*, are learnt by gradient descent, too. At the end each edge keeps its
strongest operation. The supernet is found to end in sharp places, and to lose much of its accuracy when it is cut down.
SD-DARTS adds a penalty: the supernets at the end of the last three epochs vote, and the present one should not depart
from their vote. It is flatter then, and learns wrong labels less.

======================= ========================================================================================
symbol                  here
======================= ========================================================================================
:math:`w`               weights of the supernet, ``(k, d)``: a stack of networks that are trained at once
:math:`\alpha, A`       architecture ``(k, edges, operations)``: free numbers, and their softmax over operations
:math:`z`               logits ``(k, n, c)``; :math:`z^{(m)}` those of teacher :math:`m`
:math:`K`               ``n_teachers``: how many epochs' supernets vote, 3
:math:`T`               temperature, 4
:math:`\lambda`         weight of the penalty, ``lam``; 0 is plain DARTS
======================= ========================================================================================

One step on :math:`\alpha` with validation data, by Adam, and one on :math:`w` with training data, by SGD with momentum:

.. math:: \alpha \leftarrow \alpha - \eta_\alpha\, \mathrm{Adam}\big(\nabla_\alpha L_{val}(w, \alpha)\big), \qquad
   w \leftarrow w - \eta\, \nabla_w \Big( L_{train} + \lambda T^2\, \mathrm{KL}\big(\bar p\, \big\|\,
   \mathrm{softmax}(z / T)\big) \Big), \qquad \bar p = \frac1K \sum_{m=1}^K \mathrm{softmax}(z^{(m)} / T) .

Guarantee: the penalty and its gradient are 0 where the outputs are the vote's. So a supernet that is taught by itself
is plain DARTS. That the penalty flattens is the paper's argument and experiment, not a theorem.

Not reproduced: CIFAR and ImageNet, the search space of DARTS, training the found architecture afresh; and the smaller
gap between supernet and cut-down network, which our small searches do not show. Our data have wrong labels; without
them SD-DARTS is the sharper one, at a higher loss. Of the paper we have read the abstract only: that the vote is a
mean, and the values of :math:`\lambda`, :math:`T` and :math:`K`, are our choices.

Reference: Zhu, Li, Liu, Wang: Improving Differentiable Architecture Search via Self-Distillation, Neural Networks 2023,
arXiv 2302.05629. DARTS: Liu, Simonyan, Yang, ICLR 2019, arXiv 1806.09055.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import layer_norm, log_softmax, one_hot, relu, softmax

from paperlab import data
from paperlab.arguments import positive, whole_number
from paperlab.claims import Claim, Control, Observation
from paperlab.exercises import Exercise
from paperlab.reproducible import reproducible
from paperlab.tools.hessian import hessian_vector_product

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from paperlab.widgets import Explorer

# A cell is a graph: node 0 is the input, and each edge (i, j) adds an operation of node i to node j.
EDGES = ((0, 1), (0, 2), (1, 2))
OPERATIONS = ("none", "skip", "linear", "ReLU")


def shapes(widths: tuple[int, int, int]) -> list[tuple[int, ...]]:
    """Matrices and biases of the supernet for ``widths``: inputs, hidden units of a node, classes."""
    p, h, c = widths
    return [(h, p), (h,), *((2 * h, h), (2 * h,)) * len(EDGES), (c, 2 * h), (c,)]


def start(widths: tuple[int, int, int], k: int, rng: np.random.Generator) -> Float[Tensor, "*k"]:
    """Random weights of ``k`` supernets, uniform up to one over the root of the number of inputs."""
    sizes = shapes(widths)
    n_in = [sizes[i - i % 2][1] for i in range(len(sizes))]  # a bias stands after its matrix
    parts = [rng.uniform(-1, 1, (k, *shape)) / m**0.5 for shape, m in zip(sizes, n_in, strict=True)]
    return torch.tensor(np.concatenate([part.reshape(k, -1) for part in parts], axis=1))


def mixed_operation(h: Float[Tensor, "... n h"], a: Float[Tensor, "... o"], W, b) -> Float[Tensor, "... n h"]:
    """All operations on one edge, in the shares ``a``; ``W`` and ``b`` hold the two linear maps one below the other."""
    linear, before_relu = (h @ W.mT + b[..., None, :]).chunk(2, dim=-1)
    _, skip_share, linear_share, relu_share = a[..., None, None].unbind(dim=-3)
    # sum_o a_o o(h), where the operation "none" gives 0
    return skip_share * h + linear_share * linear + relu_share * relu(before_relu)


def supernet(
    w: Float[Tensor, "... d"], A: Float[Tensor, "... e o"], X: Float[Tensor, "... n p"], widths: tuple[int, int, int]
) -> Float[Tensor, "... n c"]:
    """Logits. Each node is the normalised sum of its edges; the last layer sees nodes 1 and 2.

    Leading axes of weights, architectures and inputs are broadcast. Raises ``ValueError`` if ``w`` has another length
    than the widths ask for.
    """
    sizes = [int(np.prod(shape)) for shape in shapes(widths)]
    if w.shape[-1] != sum(sizes):
        raise ValueError(f"w has {w.shape[-1]} weights; widths {widths} need {sum(sizes)}")
    parts = [part.unflatten(-1, shape) for part, shape in zip(w.split(sizes, dim=-1), shapes(widths), strict=True)]
    nodes = [layer_norm(X @ parts[0].mT + parts[1][..., None, :], widths[1:2])]
    for node in (1, 2):
        # h_j = sum over edges (i, j) of the mixed operation of h_i; then normalised,
        # since shares of a quarter would shrink the signal at each node
        inputs = [
            mixed_operation(nodes[i], A[..., e, :], *parts[2 + 2 * e : 4 + 2 * e])
            for e, (i, j) in enumerate(EDGES)
            if j == node
        ]
        nodes.append(layer_norm(sum(inputs), widths[1:2]))
    return torch.cat(nodes[1:], dim=-1) @ parts[-2].mT + parts[-1][..., None, :]


def losses(z: Float[Tensor, "... n c"], y: Float[Tensor, "... n c"]) -> Float[Tensor, "... n"]:
    """The cross-entropy of each example, in nats; ``y`` are probabilities of the classes, 0 and 1 if they are sure."""
    return -(y * log_softmax(z, dim=-1)).sum(dim=-1)


def discretize(A: Float[Tensor, "... e o"]) -> Float[Tensor, "... e o"]:
    """The derived architecture: on each edge all weight on the strongest operation that is not "none"."""
    return one_hot(A[..., 1:].argmax(dim=-1) + 1, A.shape[-1]).to(A.dtype)


def vote(past: Float[Tensor, "m ... n c"], T: float = 4.0) -> Float[Tensor, "... n c"]:
    """The mean of the teachers' probabilities at temperature ``T``. Raises ``ValueError`` unless ``T > 0``."""
    # 1/K sum_m softmax(z^(m) / T)
    return softmax(past / positive("T", T), dim=-1).mean(dim=0)


def distillation_loss(z: Float[Tensor, "... n c"], p: Float[Tensor, "... n c"], T: float = 4.0) -> Tensor:
    """``T^2`` times the divergence of the outputs at temperature ``T`` from the vote ``p``, mean over the examples.

    Raises ``ValueError`` unless ``T > 0``.
    """
    T = positive("T", T)
    # T^2 KL(p || softmax(z / T))
    return T**2 * (torch.xlogy(p, p) - p * log_softmax(z / T, dim=-1)).sum(dim=-1).mean(dim=-1)


def adam(g: Tensor, moments: Float[Tensor, "2 ..."], t: int, betas=(0.5, 0.999)) -> tuple[Tensor, Tensor]:
    """The direction of step ``t``, counted from 1, and the new moments; DARTS sets the first beta to a half."""
    # m <- beta_1 m + (1 - beta_1) g,  v <- beta_2 v + (1 - beta_2) g^2
    m, v = (beta * old + (1 - beta) * new for beta, old, new in zip(betas, moments, (g, g**2), strict=True))
    # direction = m / (1 - beta_1^t) / (sqrt(v / (1 - beta_2^t)) + 1e-8)
    return m / (1 - betas[0] ** t) / ((v / (1 - betas[1] ** t)).sqrt() + 1e-8), torch.stack([m, v])


def search(X: Float[Tensor, "k n p"], y: Float[Tensor, "k n c"], X_val: Float[Tensor, "k v p"],
           y_val: Float[Tensor, "k v c"], w: Float[Tensor, "k d"], widths: tuple[int, int, int],
           rng: np.random.Generator, *, lam=0.0, n_teachers=3, T: float = 4.0, epochs: int = 40, lr: float = 0.05,
           lr_alpha: float = 0.02):  # fmt: skip
    """Search ``k`` architectures at once, each on its own data: first-order DARTS in batches of 50.

    ``lam``, ``n_teachers``: a number or one a network ``(k,)``. The penalty begins as soon as the largest number of
    teachers is there. Returns ``(w, A)`` after each epoch, and the logits of all training examples then,
    ``(epochs, k, n, c)``. Raises ``ValueError`` for bad numbers.
    """
    (k, n), lr, lr_alpha = y.shape[:2], positive("lr", lr), positive("lr_alpha", lr_alpha)
    lam, teacher_numbers = torch.as_tensor(lam), torch.as_tensor(n_teachers).expand(k).tolist()
    if not (lam >= 0).all():
        raise ValueError(f"lam={lam.tolist()} must not be negative")
    most = max(whole_number("n_teachers", K, 1) for K in teacher_numbers)
    n_steps, t = whole_number("epochs", epochs, 1) * -(-n // 50), 0
    alpha = torch.tensor(1e-3 * rng.normal(size=(len(EDGES), len(OPERATIONS)))).repeat(k, 1, 1)
    moments, velocity = torch.zeros(2, *alpha.shape, dtype=w.dtype), torch.zeros_like(w)
    snapshots, outputs = [], []
    for epoch in range(epochs):
        if epoch >= most:
            votes = {K: vote(torch.stack(outputs[-int(K) :]), T) for K in set(teacher_numbers)}
            p = torch.stack([votes[K][i] for i, K in enumerate(teacher_numbers)])
        for rows in torch.tensor(rng.permutation(n)).split(50):
            rows_val, t = torch.tensor(rng.permutation(y_val.shape[1])[:50]), t + 1
            alpha = alpha.detach().requires_grad_()
            z = supernet(w, softmax(alpha, dim=-1), X_val[:, rows_val], widths)
            # g = grad_alpha L_val(w, alpha)
            # The networks do not know of each other: the gradient of the sum is that of each.
            (g,) = torch.autograd.grad(losses(z, y_val[:, rows_val]).mean(dim=1).sum(), alpha)
            direction, moments = adam(g, moments, t)
            alpha, w = alpha.detach() - lr_alpha * direction, w.detach().requires_grad_()
            z = supernet(w, softmax(alpha, dim=-1), X[:, rows], widths)
            objective = losses(z, y[:, rows]).mean(dim=1)
            if epoch >= most:
                # L_train + lambda T^2 KL(p || softmax(z / T))
                objective = objective + lam * distillation_loss(z, p[:, rows], T)
            velocity = 0.9 * velocity + torch.autograd.grad(objective.sum(), w)[0]
            w = w.detach() - lr * (1 + np.cos(np.pi * (t - 1) / n_steps)) / 2 * velocity
        snapshots.append((w, softmax(alpha, dim=-1)))
        outputs.append(supernet(*snapshots[-1], X, widths))
    return snapshots, torch.stack(outputs)


def sharpness(w: Float[Tensor, "... d"], A, X, y, widths, n_steps: int = 20) -> Float[Tensor, "*k"]:
    """The largest eigenvalue of the Hessian in ``w`` of the mean cross-entropy, of all networks of a stack at once.

    ``n_steps`` of the power method with the same start for all; the value approaches the eigenvalue from below.
    """
    _, product = hessian_vector_product(lambda w: losses(supernet(w, A, X, widths), y).mean(dim=-1).sum(), w)
    v = torch.randn(w.shape[-1], generator=torch.Generator().manual_seed(0), dtype=w.dtype).expand_as(w)
    for _ in range(whole_number("n_steps", n_steps, 1)):
        # v <- H v / |H v|; one Hessian stands beside the other, so one product serves all networks
        v = v / v.norm(dim=-1, keepdim=True)
        v, value = (Hv := product(v)), (v * Hv).sum(dim=-1)
    return value


def accuracy(w, A, X, y, widths) -> Float[np.ndarray, "*k"]:
    """Percent of the examples that the supernets with these architectures get right."""
    with torch.no_grad():
        right = supernet(w, A, X, widths).argmax(dim=-1) == y.argmax(dim=-1)
        return (100.0 * right).mean(dim=-1).numpy()


@dataclass(frozen=True, eq=False)
class Experiment:
    """Searches on five draws of 200 digits, 40 of them with wrong labels; by arm, and of each draw.

    ``sharpness``, ``train_loss``: at the end; also of ``"stopped DARTS"``, DARTS at the first epoch at which its
    loss, mean over the draws, is not above the last one of SD-DARTS. ``jump``: how much the loss of an example changes
    from an epoch to the next, mean over examples and epochs from 4 on. ``path``: test accuracy in percent on the way to
    the derived architecture. ``every``: mean test accuracy over the 27 architectures that can be derived. ``wrong``:
    mean loss of the wrong labels after each epoch. Losses in nats.
    """

    sharpness: dict[str, Float[np.ndarray, " k"]]
    train_loss: dict[str, Float[np.ndarray, " k"]]
    jump: dict[str, Float[np.ndarray, " k"]]
    path: dict[str, Float[np.ndarray, "k t"]]
    every: dict[str, Float[np.ndarray, " k"]]
    wrong: dict[str, Float[np.ndarray, " epochs"]]


WIDTHS, WRONG = (64, 16, 10), 40


def noisy_digits(k: int, rng: np.random.Generator):
    """``k`` draws of 200 digits to train, of which the first 40 have wrong labels, 200 to validate and 300 to test:
    images and labels of each; torch tensors with leading axis ``k``, labels as probabilities.
    """
    images, labels = (torch.tensor(each) for each in data.digits())
    rows = torch.tensor(np.stack([rng.permutation(len(labels))[:700] for _ in range(k)]))
    y = labels[rows]
    y[:, :WRONG] = (y[:, :WRONG] + torch.tensor(rng.integers(1, 10, (k, WRONG)))) % 10
    parts = slice(0, 200), slice(200, 400), slice(400, 700)
    return [each[:, part] for part in parts for each in (images[rows], one_hot(y, 10).double())]


def searches(settings, draws: int, rng: np.random.Generator):
    """A search for each setting, a weight of the penalty, a number of teachers and a share of the labels that is spread
    over all classes, on the same draws and from the same starts. Returns the draws, and what ``search`` returns, where
    a setting and a draw have an axis each.
    """
    X, y, *others = parts = noisy_digits(draws, rng)
    lam, n_teachers, smoothing = torch.tensor(settings).repeat_interleave(draws, 0).T
    w, repeated = start(WIDTHS, draws, rng), [len(settings), 1, 1]
    labels = y.repeat(repeated) + smoothing[:, None, None] * (0.1 - y.repeat(repeated))
    stacks = X.repeat(repeated), labels, *(part.repeat(repeated) for part in others[:2]), w.repeat(repeated[:2])
    snapshots, z = search(*stacks, WIDTHS, rng, lam=lam, n_teachers=n_teachers)
    shape = (len(settings), draws)
    return parts, [[part.unflatten(0, shape) for part in pair] for pair in snapshots], z.unflatten(1, shape)


# weight of the penalty, number of teachers, share of each label that is smoothed
ARMS = {"SD-DARTS": (4.0, 3, 0.0), "DARTS": (0.0, 3, 0.0), "smoothed labels": (0.0, 3, 0.2)}
# Three operations on each of three edges: the 27 architectures that can be derived.
DERIVED = one_hot(torch.tensor(list(product((1, 2, 3), repeat=len(EDGES)))), len(OPERATIONS)).double()
# Shares of the way from the learnt architecture to one of them.
WAY = np.linspace(0, 1, 11)


def along(A: Float[Tensor, "... e o"], target: Float[Tensor, "... e o"]) -> Float[Tensor, "11 ... e o"]:
    """Architectures on the straight way from ``A`` to ``target``."""
    t = torch.tensor(WAY).reshape(-1, *[1] * A.ndim)
    return (1 - t) * A + t * target


@reproducible()
def experiment(seed: int = 0) -> Experiment:
    """15 searches of 40 epochs."""
    rng = np.random.default_rng(np.random.SeedSequence(seed).spawn(1)[0])
    parts, snapshots, z = searches(list(ARMS.values()), 5, rng)
    (X, y, *_, test_X, test_y), (w, A), history = parts, snapshots[-1], losses(z, parts[1])
    stop = int((history[:, 1].mean(dim=(1, 2)) <= history[-1, 0].mean()).nonzero()[0])
    compared = [torch.cat([end, early[1:2]]) for end, early in zip((w, A), snapshots[stop], strict=True)]
    found = (
        sharpness(*compared, X, y, WIDTHS),
        torch.cat([history[-1], history[stop, 1:2]]).mean(dim=-1),
        history[3:].diff(dim=0).abs().mean(dim=(0, 3)),
        accuracy(w, along(A, discretize(A)), test_X, test_y, WIDTHS).transpose(1, 2, 0),
        accuracy(w[:2], DERIVED[:, None, None], test_X, test_y, WIDTHS).mean(axis=0),
        history[..., :WRONG].mean(dim=(2, 3)).T,
    )
    return Experiment(*(dict(zip((*ARMS, "stopped DARTS"), np.asarray(each), strict=False)) for each in found))


def claims(result: Experiment) -> tuple[Claim | Observation, ...]:
    """What the paper says, in numbers of one run."""
    sharp = {name: float(np.exp(np.log(each).mean())) for name, each in result.sharpness.items()}
    lost = {name: float((each[:, 0] - each[:, -1]).mean()) for name, each in result.path.items()}
    plain = "DARTS: the same without the penalty"
    return (
        Claim(
            id="sharpness",
            statement="Taught by its past, the supernet ends in flatter places",
            source="abstract: effectively reducing the sharpness of the supernet's loss",
            quantity="largest eigenvalue of the Hessian, geometric mean of five searches",
            unit="",
            measured=sharp["SD-DARTS"],
            relation="<=",
            bound=19,
            control=Control(plain, sharp["DARTS"], "ablation"),
            scale="log",
        ),
        Claim(
            id="soft_targets",
            statement="Soft targets alone do not flatten: those of the past do",
            source="our control: labels of which a fifth is spread over all classes",
            quantity="largest eigenvalue of the Hessian, geometric mean of five searches",
            unit="",
            measured=sharp["SD-DARTS"],
            relation="<=",
            bound=19,
            control=Control("smoothed labels, no teachers", sharp["smoothed labels"], "baseline"),
            scale="log",
        ),
        Claim(
            id="jump",
            statement="The loss of an example jumps less from one epoch to the next",
            source="abstract of the first version: minimise the loss difference of consecutive iterations",
            quantity="mean change of an example's training loss from epoch to epoch, from epoch 4 on",
            unit="nats",
            measured=float(result.jump["SD-DARTS"].mean()),
            relation="<=",
            bound=0.11,
            control=Control(plain, float(result.jump["DARTS"].mean()), "ablation"),
        ),
        Observation(
            "Points of test accuracy lost from supernet to derived network, mean of five: SD-DARTS, DARTS",
            lost["SD-DARTS"],
            lost["DARTS"],
            "The gap that the paper closes. Here it is mostly larger, and it scatters.",
        ),
        Observation(
            "Sharpness at about the same training loss: SD-DARTS at the end, DARTS stopped early",
            sharp["SD-DARTS"],
            sharp["stopped DARTS"],
            "Part of the flatness is that less is learnt. The rest is too little for a claim.",
        ),
        Observation(
            "Test accuracy in percent when cut down, mean of all 27 architectures: SD-DARTS, DARTS",
            float(result.every["SD-DARTS"].mean()),
            float(result.every["DARTS"].mean()),
            "In the mean over all that could be derived, SD-DARTS keeps more, by as much as its supernet is better.",
        ),
    )


def exercises() -> tuple[Exercise, ...]:
    """One to implement, one to experiment with, one to think about."""

    def penalty(z, past, T):
        return float(distillation_loss(torch.tensor(z), vote(torch.tensor(past), T), T))

    def cases(rng):
        draws = ((3 * rng.normal(size=(4, n, c)), T) for n, c, T in ((2, 2, 2.0), (3, 4, 4.0), (6, 10, 3.0)))
        return [(z[0], z[1:], T) for z, T in draws]

    return (
        Exercise(
            id="penalty",
            task="Write `penalty(z, past, T)` in NumPy: the distillation loss against the vote, without its weight. "
            "`z` are the logits `(n, c)`, `past` those of m teachers `(m, n, c)`.",
            solution=penalty,
            cases=cases,
            slips={
                "You averaged the logits. The teachers vote with probabilities.": (
                    lambda z, past, T: penalty(z, past.mean(axis=0)[None], T)
                ),
                "The factor T squared is missing.": lambda z, past, T: penalty(z, past, T) / T**2,
            },
            difficulty=2,
        ),
        Exercise(
            id="cheapest",
            task="In the explorer, look at plain DARTS, the dashed curve. Cutting all edges down to which operation "
            'costs the least accuracy: `"skip"`, `"linear"` or `"ReLU"`? Bind the name to `cheapest`.',
            solution=lambda: "skip",
            slips={
                "The dashed curve ends below 25 % there. Look for one that ends high.": lambda: "linear",
                "ReLU has a fair share, but alone it gets only two digits in ten right.": lambda: "ReLU",
            },
            minutes=5,
            kind="experiment",
            answer="DARTS has most weight there, so little is lost with the rest. It need not be flat for that.",
        ),
        Exercise(
            id="mirror",
            task="To save memory, somebody takes the present supernet, with its present weights, as the only teacher. "
            "What does training do? (a) The same as DARTS. (b) The same as SD-DARTS. (c) It gets flatter still. Bind "
            "the letter to `mirror`.",
            solution=lambda: "a",
            slips={
                "Compute the divergence from one's own outputs, and its slope.": lambda: "b",
                "A teacher who repeats what the pupil says teaches nothing.": lambda: "c",
            },
            minutes=5,
            kind="think",
            answer="The divergence is smallest, 0, where both agree, and there its gradient is 0, too.",
        ),
    )


def figure(result: Experiment) -> go.Figure:
    """Where the sharpness ends, how wrong labels are learnt, and what is left on the way to the derived network."""
    from paperlab.figures import theme
    from paperlab.figures.panels import Panel, line, panels, points

    ends, wrong, left = [], [], []
    colours, dashes = (theme.BLUE, theme.VERMILION, theme.GREEN), ("solid", "dash", "dot")
    for name, colour, dash in zip(ARMS, colours, dashes, strict=False):
        ends.append(points("", [name] * 5, result.sharpness[name], colour, size=10, showlegend=False))
        wrong.append(line(name, np.arange(1, 41), result.wrong[name], colour, dash=dash))
        left.append(line(name, WAY, result.path[name].mean(axis=0), colour, dash=dash, showlegend=False))
    axes = {"tickangle": -30}, {"type": "log", "range": [0.8, 1.7], "tickvals": [7, 10, 20, 40]}
    return panels(
        Panel("sharpness at the end", ends, "method", "largest eigenvalue", *axes),
        Panel("40 wrong labels", wrong, "epoch", "mean loss, nats", {"range": [0, 41]}, {"range": [1, 3.5]}),
        Panel("cutting down", left, "share of the way", "test accuracy, %", {}, {"range": [0, 100]}),
        title="Flatter and better, but no easier to cut down",
    )


LAMBDAS, TEACHERS, TARGETS = (0.0, 2.0, 4.0), (1, 3), ("derived", "skip", "linear", "ReLU")


@cache
def explorer_runs() -> dict:
    """Searches on the same two draws by weight of the penalty and number of teachers: weights and architectures of the
    supernets, and their sharpness. Under ``"test"``, images and labels.
    """
    with reproducible():
        keys = list(product(LAMBDAS, TEACHERS))
        parts, snapshots, _ = searches([(*key, 0.0) for key in keys], 2, np.random.default_rng(2))
        sharp = sharpness(*snapshots[-1], *parts[:2], WIDTHS).log().mean(dim=1).exp()
        found = zip(*snapshots[-1], sharp.tolist(), strict=True)
        return {"test": parts[4:], **dict(zip(keys, found, strict=True))}


def explorer() -> Explorer:
    """Two supernets on their way to a network with one operation an edge."""
    from paperlab.figures import theme
    from paperlab.figures.panels import Panel, line, panels, points
    from paperlab.widgets import Choice, Explorer

    def compute(context, lam: float, n_teachers: int, target: str) -> dict:
        state = {}
        for name, key in (("SD-DARTS", (lam, n_teachers)), ("DARTS", (0.0, n_teachers))):
            w, A, sharp = context[key]
            chosen = A if target == "derived" else torch.tensor([float(o == target) for o in OPERATIONS]).expand_as(A)
            way = along(A, discretize(chosen))
            path = accuracy(w, way, *context["test"], WIDTHS).mean(axis=1)
            state[name] = {"path": path, "A": 100 * A.mean(dim=(0, 1)).numpy(), "sharpness": sharp}
        return state

    def draw(state) -> go.Figure:
        path, shares = [], []
        looks = (("SD-DARTS", theme.BLUE, "solid", "circle"), ("DARTS", theme.VERMILION, "dash", "diamond"))
        for name, colour, dash, symbol in looks:
            path.append(line(name, WAY, state[name]["path"], colour, dash=dash))
            shares.append(points("", OPERATIONS, state[name]["A"], colour, symbol=symbol, size=13, showlegend=False))
        return panels(
            Panel("cutting down", path, "share of the way", "test accuracy, %", {}, {"range": [0, 100]}),
            Panel("learnt architecture", shares, "operation", "mean share, %", {}, {"range": [0, 60]}),
        )

    def describe(values, state) -> str:
        ours, plain = (
            f"sharpness {own['sharpness']:.1f}, test accuracy {own['path'][0]:.1f} %, cut down ({values['target']}) "
            f"{own['path'][-1]:.1f} %" for own in (state["SD-DARTS"], state["DARTS"])
        )  # fmt: skip
        return f"λ = {values['lam']:g}, teachers: {values['n_teachers']}: {ours}. DARTS: {plain}."

    return Explorer(
        controls=(
            Choice("lam", "weight λ of the penalty", LAMBDAS, default=4.0),
            Choice("n_teachers", "number of teachers", TEACHERS, default=3),
            Choice("target", "cut down to", TARGETS, default="derived"),
        ),
        prepare=explorer_runs,
        compute=compute,
        draw=draw,
        describe=describe,
        notice=(
            "Set λ to 0: both curves are the same. Then 2, then 4: sharpness falls, accuracy at the left end rises.",
            "Cut down to skip, linear and ReLU in turn: which supernet leans on which operation?",
        ),
        name="sd_darts",
    )
