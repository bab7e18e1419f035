"""Sharpness against dense Hessians and closed forms, clipping against NumPy, the transformer against torch's layers."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, embedding, layer_norm, linear, scaled_dot_product_attention

from paperlab.landscape import directional_sharpness as paper


def double(array):
    return torch.tensor(np.asarray(array), dtype=torch.float64)


def quadratic(seed: int = 0, d: int = 6):
    """A diagonal quadratic, curvatures of both sizes, at a random point: h, x and f."""
    rng = np.random.default_rng(seed)
    h, x = double(10 ** rng.uniform(-1, 2, d)), double(rng.normal(size=d))
    return h, x, lambda x: (h * x**2).sum(dim=-1) / 2


def problem(k: int = 2, n: int = 3, seed: int = 0, exponent: float = 1.0):
    rng = np.random.default_rng(seed)
    rules = np.stack([rng.permutation(paper.VOCABULARY) for _ in range(k)])
    return paper.start(k, rng), *paper.sequences(rules, n, exponent, rng), rules


def test_sharpness_of_a_diagonal_quadratic():
    """Along the gradient sum h^3 x^2 / sum h^2 x^2, along its sign the mean of h; directions of any length."""
    h, x, f = quadratic()
    g = h * x
    found = paper.directional_sharpness(f, x, torch.stack([g, 7 * g.sign()]))
    assert torch.allclose(found, torch.stack([(h**3 * x**2).sum() / (h**2 * x**2).sum(), h.mean()]))


def test_sharpness_against_a_dense_hessian():
    """Two points at once, with directions along which the loss bends down, too."""
    rng = np.random.default_rng(1)
    A, x, v = double(rng.normal(size=(5, 5))), double(rng.normal(size=(2, 5))), double(rng.normal(size=(9, 2, 5)))
    found = paper.directional_sharpness(lambda x: torch.sin(x @ A).sum(dim=-1), x, v)
    for k in range(2):
        H = torch.autograd.functional.hessian(lambda x: torch.sin(x @ A).sum(), x[k])
        expected = ((v[:, k] @ H) * v[:, k]).sum(dim=1) / v[:, k].square().sum(dim=1)
        assert torch.allclose(found[:, k], expected)
    assert found.min() < 0 < found.max()


def test_sharpness_of_a_transformer_against_differences():
    x, tokens, targets, _ = problem()
    loss = paper.batch_loss(tokens, targets)
    v = double(np.random.default_rng(2).normal(size=x.shape))
    v, e = v / v.norm(dim=1, keepdim=True), 1e-3
    second = (loss(x + e * v) - 2 * loss(x) + loss(x - e * v)) / e**2
    assert torch.allclose(paper.directional_sharpness(loss, x, v[None])[0], second, rtol=1e-3, atol=1e-5)


def test_best_decrease_of_a_quadratic():
    """(g^T v)^2 / (2 v^T H v) if the best length is among those tried; 0 if all of them lead uphill."""
    h, x, f = quadratic(3)
    g = h * x
    for direction in (g, g.sign()):
        v = direction / direction.norm()
        slope, curvature = g @ v, (h * v**2).sum()
        found = paper.best_decrease(f, x, 5 * direction, [0.1, float(slope / curvature), 9.0])
        assert torch.isclose(found, slope**2 / (2 * curvature))
    assert paper.best_decrease(f, x, -g, [0.1, 1.0]) == 0


def test_clipping_against_sorting():
    rng = np.random.default_rng(4)
    u = double(rng.normal(size=(3, 101)) ** 3)
    for share in (0.1, 0.5):
        clipped, n = paper.clip_coordinates(u, share), round(100 * share)
        for before, after in zip(u, clipped, strict=True):
            # of 101 sizes the 1 - share quantile is one of them: the n above it are cut to it
            tau = before.abs().sort().values[100 - n]
            assert (before != after).sum() == n
            assert torch.equal(after, torch.where(before.abs() > tau, tau * before.sign(), before))
    assert torch.equal(paper.clip_coordinates(u, 0.0), u)


def test_clipping_hardly_anything_leaves_the_sign():
    """The more is clipped, the more equal all sizes are."""
    u = double(np.random.default_rng(5).normal(size=1001))
    clipped = paper.clip_coordinates(u, 0.999)
    assert torch.isclose(clipped @ u.sign() / clipped.norm() / 1001**0.5, double(1.0), atol=1e-3)


def test_moments_against_sums():
    """m_t and r_t are weighted means of all gradients and squares so far, with weights that sum to 1."""
    gradients, moments = double(np.random.default_rng(6).normal(size=(5, 4))), paper.Moments((4,), (0.8, 0.95))
    for t, g in enumerate(gradients, 1):
        found = moments.directions(g)
        weights = [double(beta ** np.arange(t - 1, -1, -1)) for beta in (0.8, 0.95)]
        m, r = ((w / w.sum()) @ each[:t] for w, each in zip(weights, (gradients, gradients**2), strict=True))
        expected = (g, m, g / r.sqrt(), m / r.sqrt())
        assert list(found) == list(paper.RULES)
        for one, other in zip(found.values(), expected, strict=True):
            assert torch.allclose(one, other, rtol=1e-6)


def by_hand(x, tokens):
    """Logits of one transformer, sequence by sequence, with torch's attention."""
    embed, place, qkv, out, up, down, logits = (
        part.reshape(shape) for part, shape in zip(x.split(paper.SIZES), paper.SHAPES, strict=True)
    )
    width, rows = (embed.shape[1],), []
    for sequence in tokens:
        h = embedding(sequence, embed) + place
        q, k, v = linear(layer_norm(h, width), qkv.T).chunk(3, dim=1)
        h = h + linear(scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0], out.T)
        h = h + linear(linear(layer_norm(h, width), up.T).relu(), down.T)
        rows.append(linear(layer_norm(h, width), logits.T))
    return torch.stack(rows)


def test_transformer_and_loss_against_torch():
    x, tokens, targets, _ = problem(k=2, n=3)
    z, values = paper.transformer(x, tokens), paper.batch_loss(tokens, targets)(x)
    for k in range(2):
        expected = by_hand(x[k], tokens[k])
        assert torch.allclose(z[k], expected)
        assert torch.isclose(values[k], cross_entropy(expected.flatten(0, 1), targets[k].flatten()))


def test_transformer_does_not_look_ahead():
    x, tokens, _, _ = problem(k=1)
    changed = tokens.clone()
    changed[..., -1] = (changed[..., -1] + 1) % paper.VOCABULARY
    before, after = paper.transformer(x, tokens), paper.transformer(x, changed)
    assert torch.equal(before[:, :, :-1], after[:, :, :-1])
    assert (before[:, :, -1] - after[:, :, -1]).abs().max() > 0.01


def test_sequences_follow_zipf_and_the_rule():
    _, tokens, targets, rules = problem(k=2, n=2000)
    counts = np.bincount(tokens.numpy().ravel(), minlength=32) / tokens.numel()
    expected = 1 / np.arange(1, 33) / np.sum(1 / np.arange(1, 33))
    assert np.abs(counts - expected).max() < 0.01
    for k in range(2):
        right = (rules[k][tokens[k, :, 1:]] + tokens[k, :, :-1].numpy()) % 32 == targets[k, :, 1:].numpy()
        assert abs(right.mean() - (0.9 + 0.1 / 32)) < 0.01
    uniform = np.bincount(problem(n=2000, exponent=0.0)[1].numpy().ravel(), minlength=32)
    assert uniform.max() < 1.2 * uniform.min()


def test_training_against_a_loop():
    """SGD, clipped SGD and Adam, two networks at once, against one network at a time."""
    rates = {"gradient": 0.5, "momentum": 0.5, "scaling": 0.01, "Adam": 0.01}
    for rule, clip in (("gradient", 0.0), ("gradient", 0.3), ("Adam", 0.0), ("Adam", 0.3)):
        stops, history = paper.train(
            2, np.random.SeedSequence(3), rule=rule, lr=rates[rule], clip=clip, exponent=0.5, stops=(2, 4)
        )
        rng = np.random.default_rng(np.random.SeedSequence(3))
        x, rules = paper.start(2, rng), np.stack([rng.permutation(32) for _ in range(2)])
        batches = [paper.sequences(rules, 16, 0.5, rng) for _ in range(4)]
        for k in range(2):
            w, m, r = x[k], torch.zeros_like(x[k]), torch.zeros_like(x[k])
            for t, (tokens, targets) in enumerate(batches, 1):
                if t in (2, 4):
                    assert torch.allclose(stops[t // 2 - 1].x[k], w, atol=1e-9)
                w = w.detach().requires_grad_()
                loss = cross_entropy(by_hand(w, tokens[k]).flatten(0, 1), targets[k].flatten())
                assert np.isclose(history[t - 1, k], loss.item())
                (g,) = torch.autograd.grad(loss, w)
                m, r = 0.9 * m + 0.1 * g, 0.999 * r + 0.001 * g**2
                u = g if rule == "gradient" else m / (1 - 0.9**t) / ((r / (1 - 0.999**t)).sqrt() + 1e-8)
                tau = np.quantile(u.abs().numpy(), 1 - clip)
                w = w - rates[rule] * u.clamp(-tau, tau)


def test_explorer_state_against_the_parts():
    stop, state = paper.explorer_stops(1.0)[80], paper.explorer_state(80, 50, 1.0)
    g = stop.directions["gradient"]
    for i, direction in enumerate((g, paper.clip_coordinates(g, 0.5), stop.directions["Adam"])):
        sharpness = paper.directional_sharpness(stop.loss, stop.x, direction[None])
        assert np.isclose(state["sharpness"][i], sharpness.item())
        falls = paper.best_decrease(stop.loss, stop.x, direction, paper.ALONG.numpy())
        assert np.isclose(-state["change"][i].min(), falls.item())
        # near 0 the model is the loss
        assert np.isclose(state["change"][i, 1], state["model"][i, 1], rtol=0.1)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: paper.directional_sharpness(lambda x: x.sum(-1), double([1.0]), double([[0.0]])), "directions"),
        (lambda: paper.best_decrease(lambda x: x.sum(-1), double([1.0]), double([np.nan]), [1.0]), "directions"),
        (lambda: paper.best_decrease(lambda x: x.sum(-1), double([1.0]), double([1.0]), []), "lengths"),
        (lambda: paper.best_decrease(lambda x: x.sum(-1), double([1.0]), double([1.0]), [np.inf]), "lengths"),
        (lambda: paper.clip_coordinates(double([1.0]), 1.0), "share"),
        (lambda: paper.clip_coordinates(double([1.0]), -0.1), "share"),
        (lambda: paper.clip_coordinates(double([1.0]), float("nan")), "share"),
        (lambda: paper.transformer(torch.zeros(1, 7), torch.zeros(1, 1, 8, dtype=torch.int64)), "x"),
        (lambda: paper.train(1, np.random.SeedSequence(0), rule="adam"), "rule"),
        (lambda: paper.train(1, np.random.SeedSequence(0), lr=0.0), "lr"),
        (lambda: paper.train(1, np.random.SeedSequence(0), stops=(0,)), "stops"),
    ],
)
def test_bad_input(call, name):
    with pytest.raises(ValueError, match=rf"^{name}\b"):
        call()


SLIPS = {
    "direction not normalised": ("return directions / lengths", "return directions"),
    "threshold from values, not sizes": ("torch.quantile(u.abs(), 1 - share", "torch.quantile(u, 1 - share"),
    "no bias correction": ("self.m / (1 - beta1**self.t)", "self.m"),
    "step uphill": ("loss(x - float(s) * v)", "loss(x + float(s) * v)"),
    "attention looks ahead": (".triu(1)", ".triu(9)"),
    "update not clipped": ("clip_coordinates(directions[rule], clip) if clip", "directions[rule] if clip"),
}
CATCHES = {
    "direction not normalised": [
        "test_sharpness_of_a_diagonal_quadratic",
        "test_sharpness_against_a_dense_hessian",
        "test_best_decrease_of_a_quadratic",
    ],
    "threshold from values, not sizes": ["test_clipping_against_sorting"],
    "no bias correction": ["test_moments_against_sums"],
    "step uphill": ["test_best_decrease_of_a_quadratic"],
    "attention looks ahead": ["test_transformer_and_loss_against_torch", "test_transformer_does_not_look_ahead"],
    "update not clipped": ["test_training_against_a_loop"],
}
