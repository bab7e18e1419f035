"""The supernet and its search against loops of their own, the penalty against torch's distributions."""

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, kl_divergence
from torch.nn.functional import cross_entropy, one_hot

from paperlab.landscape import sd_darts as paper

WIDTHS = (3, 4, 5)


def double(array):
    return torch.tensor(np.asarray(array), dtype=torch.float64)


def problem(k: int = 1, n: int = 60, seed: int = 0):
    """Images and labels to train and to validate, and weights."""
    rng = np.random.default_rng(seed)
    X, X_val = double(rng.normal(size=(2, k, n, 3)))
    y, y_val = one_hot(torch.tensor(rng.integers(0, 5, (2, k, n))), 5).double()
    return X, y, X_val, y_val, paper.start(WIDTHS, k, rng)


def normalized(h):
    return (h - h.mean(dim=-1, keepdim=True)) / (h.var(dim=-1, unbiased=False, keepdim=True) + 1e-5).sqrt()


def by_hand(w, A, X):
    """One supernet, operation by operation."""
    parts = list(w.split([12, 4, *(32, 8) * 3, 40, 5]))

    def edge(e, h):
        W, b = parts[2 + 2 * e].reshape(8, 4), parts[3 + 2 * e]
        linear, relu = h @ W[:4].T + b[:4], (h @ W[4:].T + b[4:]).clamp_min(0)
        return A[e, 0] * 0 * h + A[e, 1] * h + A[e, 2] * linear + A[e, 3] * relu

    first = normalized(X @ parts[0].reshape(4, 3).T + parts[1])
    second = normalized(edge(0, first))
    third = normalized(edge(1, first) + edge(2, second))
    return torch.cat([second, third], dim=1) @ parts[-2].reshape(5, 8).T + parts[-1]


def test_supernet_against_a_loop():
    X, _, _, _, w = problem(k=2)
    A = torch.softmax(double(np.random.default_rng(1).normal(size=(2, 3, 4))), dim=-1)
    z = paper.supernet(w, A, X, WIDTHS)
    for k in range(2):
        assert torch.allclose(z[k], by_hand(w[k], A[k], X[k]))


def test_one_operation_alone_is_that_operation():
    h, W, b = double(np.random.default_rng(2).normal(size=(6, 4))), torch.eye(8, 4).double(), torch.zeros(8).double()
    W = torch.cat([2 * torch.eye(4), -torch.eye(4)]).double()
    expected = 0 * h, h, 2 * h, (-h).clamp_min(0)
    for row, operation in zip(torch.eye(4).double(), expected, strict=True):
        assert torch.allclose(paper.mixed_operation(h, row, W, b), operation)


def test_derived_architecture_never_takes_none():
    A = double([[[0.7, 0.1, 0.15, 0.05], [0.1, 0.2, 0.3, 0.4], [0.3, 0.4, 0.2, 0.1]]])
    assert paper.discretize(A).tolist() == [[[0, 0, 1, 0], [0, 0, 0, 1], [0, 1, 0, 0]]]


def test_vote_and_penalty_against_distributions():
    rng = np.random.default_rng(3)
    past, z = double(3 * rng.normal(size=(3, 7, 5))), double(3 * rng.normal(size=(7, 5)))
    for T in (1.0, 4.0):
        p = sum(Categorical(logits=each / T).probs for each in past) / 3
        assert torch.allclose(paper.vote(past, T), p)
        expected = T**2 * kl_divergence(Categorical(probs=p), Categorical(logits=z / T)).mean()
        assert torch.isclose(paper.distillation_loss(z, p, T), expected)


def test_a_vote_is_no_worse_than_its_voters_in_the_mean():
    """Jensen: the loss of the mean of probabilities is at most the mean of the losses."""
    past = double(3 * np.random.default_rng(4).normal(size=(3, 50, 5)))
    assert (paper.vote(past, 1.0).log() >= torch.log_softmax(past, dim=-1).mean(dim=0)).all()


def test_own_outputs_teach_nothing():
    z = double(np.random.default_rng(5).normal(size=(6, 5))).requires_grad_()
    loss = paper.distillation_loss(z, paper.vote(z.detach()[None]))
    (gradient,) = torch.autograd.grad(loss, z)
    assert abs(loss) < 1e-12
    assert gradient.abs().max() < 1e-12


def test_penalty_with_a_sure_vote():
    assert torch.isclose(paper.distillation_loss(torch.zeros(1, 2), double([[1.0, 0.0]]), 1.0), double(np.log(2)))


def search_by_hand(X, y, X_val, y_val, w, lam, K, T, epochs):
    """One search, with torch's own Adam written out from its definition, and teachers kept as logits."""
    rng, velocity, kept, t = np.random.default_rng(7), torch.zeros_like(w), [], 0
    alpha, n_steps = double(1e-3 * rng.normal(size=(3, 4))), 2 * epochs
    gradients = []
    for epoch in range(epochs):
        for rows in torch.tensor(rng.permutation(60)).split(50):
            rows_val, t = rng.permutation(60)[:50], t + 1
            alpha.requires_grad_()
            loss = cross_entropy(by_hand(w, alpha.softmax(dim=1), X_val[rows_val]), y_val[rows_val])
            gradients.append(torch.autograd.grad(loss, alpha)[0])
            # moments as weighted sums over all gradients so far
            m = sum(0.5 ** (t - s) * g for s, g in enumerate(gradients, 1)) * 0.5 / (1 - 0.5**t)
            v = sum(0.999 ** (t - s) * g**2 for s, g in enumerate(gradients, 1)) * 0.001 / (1 - 0.999**t)
            alpha = alpha.detach() - 0.02 * m / (v.sqrt() + 1e-8)
            w = w.detach().requires_grad_()
            z = by_hand(w, alpha.softmax(dim=1), X[rows])
            objective = cross_entropy(z, y[rows])
            if lam and epoch >= K:
                p = sum((each[rows] / T).softmax(dim=1) for each in kept[-K:]) / K
                objective += lam * T**2 * kl_divergence(Categorical(probs=p), Categorical(logits=z / T)).mean()
            velocity = 0.9 * velocity + torch.autograd.grad(objective, w)[0]
            w = w.detach() - 0.05 * 0.5 * (1 + np.cos(np.pi * (t - 1) / n_steps)) * velocity
        kept.append(by_hand(w, alpha.softmax(dim=1), X))
    return w, alpha.softmax(dim=1), kept


def test_search_against_a_loop():
    """Networks of a stack, each with its own weight of the penalty, are trained as if alone."""
    stack = problem(k=2)
    snapshots, z = paper.search(*stack, WIDTHS, np.random.default_rng(7), lam=double([0.0, 2.0]), T=3.0, epochs=6)
    for k in range(2):
        w, A, kept = search_by_hand(*(part[k] for part in stack), lam=2.0 * k, K=3, T=3.0, epochs=6)
        assert torch.allclose(snapshots[-1][0][k], w)
        assert torch.allclose(snapshots[-1][1][k], A)
        assert torch.allclose(z[:, k], torch.stack(kept))


def test_number_of_teachers_is_that_of_each_network():
    """With one teacher for all, the penalty begins an epoch after the first; with different numbers, with the most."""
    X, y, X_val, y_val, w = problem()
    snapshots, _ = paper.search(
        X, y, X_val, y_val, w, WIDTHS, np.random.default_rng(7), lam=2.0, n_teachers=1, epochs=4
    )
    assert torch.allclose(snapshots[-1][0][0], search_by_hand(X[0], y[0], X_val[0], y_val[0], w[0], 2.0, 1, 4.0, 4)[0])
    pair = [part.repeat(2, *[1] * (part.ndim - 1)) for part in (X, y, X_val, y_val, w)]
    both, _ = paper.search(*pair, WIDTHS, np.random.default_rng(7), lam=2.0, n_teachers=double([1, 2]), epochs=4)
    assert torch.equal(both[1][0][0], both[1][0][1])
    assert not torch.allclose(both[3][0][0], both[3][0][1])


def test_sharpness_against_a_dense_hessian():
    X, y, _, _, w = problem(k=2)
    A = torch.full((2, 3, 4), 0.25).double()
    values = paper.sharpness(w, A, X, y, WIDTHS, n_steps=60)
    for k in range(2):
        v = w[k].clone().requires_grad_()
        (g,) = torch.autograd.grad(cross_entropy(by_hand(v, A[k], X[k]), y[k]), v, create_graph=True)
        (H,) = torch.autograd.grad(g, v, torch.eye(len(v)).double(), is_grads_batched=True)
        assert torch.isclose(values[k], torch.linalg.eigvalsh(H)[-1], rtol=1e-4)


def test_sharpness_after_20_steps_is_nearly_that_of_lanczos():
    from paperlab.tools import hessian

    w, A, _ = paper.explorer_runs()[4.0, 3]
    X, y = paper.noisy_digits(2, np.random.default_rng(2))[:2]
    value = paper.sharpness(w, A, X, y, paper.WIDTHS)[0]
    (top,), _ = hessian.top_eigenpairs(
        lambda v: cross_entropy(paper.supernet(v, A[0], X[0], paper.WIDTHS), y[0]), w[0], 1, torch.Generator()
    )
    assert 0.97 * top <= value <= 1.001 * top


def test_noisy_digits():
    X, y, X_val, y_val, test_X, test_y = paper.noisy_digits(2, np.random.default_rng(5))
    assert [part.shape[1] for part in (X, y, X_val, y_val, test_X, test_y)] == [200, 200, 200, 200, 300, 300]
    images, labels = (torch.tensor(part) for part in paper.data.digits())
    for k in range(2):
        rows = torch.cdist(X[k], images).argmin(dim=1)
        assert torch.equal(images[rows], X[k])
        assert (labels[rows][:40] != y[k, :40].argmax(dim=1)).all()
        assert torch.equal(labels[rows][40:], y[k, 40:].argmax(dim=1))


def test_the_answer_of_the_experiment():
    compute, runs = paper.explorer().compute, paper.explorer_runs()
    left = {target: compute(runs, 4.0, 3, target)["DARTS"]["path"] for target in ("skip", "linear", "ReLU")}
    (solution,) = [each.solution() for each in paper.exercises() if each.id == "cheapest"]
    assert max(left, key=lambda target: left[target][-1]) == solution
    assert max(left["linear"][-1], left["ReLU"][-1]) < 25


def run(**changed):
    return paper.search(*problem(), WIDTHS, np.random.default_rng(0), **changed)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: paper.supernet(torch.zeros(7), torch.zeros(3, 4), torch.zeros(2, 3), WIDTHS), "w"),
        (lambda: paper.vote(torch.zeros(1, 2, 3), 0.0), "T"),
        (lambda: paper.distillation_loss(torch.zeros(2, 3), torch.full((2, 3), 1 / 3), float("nan")), "T"),
        (lambda: run(lam=-1.0), "lam"),
        (lambda: run(lam=float("nan")), "lam"),
        (lambda: run(n_teachers=0), "n_teachers"),
        (lambda: run(epochs=0), "epochs"),
        (lambda: run(lr=0.0), "lr"),
        (lambda: run(lr_alpha=-0.1), "lr_alpha"),
        (lambda: paper.sharpness(problem()[4], torch.ones(3, 4), *problem()[:2], WIDTHS, n_steps=0), "n_steps"),
    ],
)
def test_bad_input(call, name):
    with pytest.raises(ValueError, match=rf"^{name}\b"):
        call()


SLIPS = {
    "logits averaged instead of probabilities": (
        'softmax(past / positive("T", T), dim=-1).mean(dim=0)',
        'softmax(past.mean(dim=0) / positive("T", T), dim=-1)',
    ),
    "factor T squared missing": ("return T**2 * (torch.xlogy", "return (torch.xlogy"),
    "architecture trained on the training data": (
        "supernet(w, softmax(alpha, dim=-1), X_val[:, rows_val], widths)",
        "supernet(w, softmax(alpha, dim=-1), X[:, rows_val], widths)",
    ),
    "none may be derived": ("A[..., 1:].argmax(dim=-1) + 1", "A.argmax(dim=-1)"),
    "teacher is the first supernet": ("outputs[-int(K) :]", "outputs[: int(K)]"),
    "no normalisation": ("nodes.append(layer_norm(sum(inputs), widths[1:2]))", "nodes.append(sum(inputs))"),
}
CATCHES = {
    "logits averaged instead of probabilities": ["test_vote_and_penalty_against_distributions"],
    "factor T squared missing": ["test_vote_and_penalty_against_distributions"],
    "architecture trained on the training data": ["test_search_against_a_loop"],
    "none may be derived": ["test_derived_architecture_never_takes_none"],
    "teacher is the first supernet": ["test_search_against_a_loop"],
    "no normalisation": ["test_supernet_against_a_loop"],
}
