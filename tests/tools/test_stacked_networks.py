"""Layers of flat vectors against torch's modules, random weights against the bounds of torch's own layers."""

import numpy as np
import pytest
import torch
from torch import nn

from paperlab.networks import multilayer_perceptron
from paperlab.tools.parameters import flat_parameters
from paperlab.tools.stacked_networks import random_weights, split_layers

WIDTHS = (3, 5, 2)


def test_layers_against_a_module():
    model = multilayer_perceptron(WIDTHS, seed=0).double()
    w = flat_parameters(model).detach()
    stack = torch.stack([w, 2 * w])
    linear = [layer for layer in model if isinstance(layer, nn.Linear)]
    for kind in (stack, stack.numpy()):
        for (W, b), layer in zip(split_layers(kind, WIDTHS), linear, strict=True):
            assert type(W) is type(kind)
            assert b.shape[:-1] == (2, 1)
            for i, factor in enumerate((1, 2)):
                assert np.array_equal(W[i], factor * layer.weight.detach())
                assert np.array_equal(b[i, 0], factor * layer.bias.detach())


def test_gradients_come_back_to_the_vector():
    w = torch.tensor(random_weights(WIDTHS, 2, np.random.default_rng(0))).requires_grad_()
    parts = [part for pair in split_layers(w, WIDTHS) for part in pair]
    (gradient,) = torch.autograd.grad(sum((i + 1) * part.sum() for i, part in enumerate(parts)), w)
    expected = np.repeat([1.0, 2.0, 3.0, 4.0], [15, 5, 10, 2])
    assert np.array_equal(gradient, np.tile(expected, (2, 1)))


def test_random_weights_fill_the_bounds_of_torch():
    w = random_weights((4, 200, 100), 3, np.random.default_rng(1))
    assert w.shape == (3, 4 * 200 + 200 + 200 * 100 + 100)
    for (W, b), n_in in zip(split_layers(w, (4, 200, 100)), (4, 200), strict=True):
        model = nn.Linear(n_in, W.shape[-2])
        for part, drawn in ((W, model.weight), (b, model.bias)):
            for values in (part, drawn.detach().numpy()):
                assert 0.95 * n_in**-0.5 < np.abs(values).max() <= n_in**-0.5 * (1 + 1e-6)
            assert abs(part.mean()) < 0.1 * n_in**-0.5
    assert not np.array_equal(w[0], w[1])


def test_bad_input():
    for w in (np.zeros((2, 7)), torch.zeros(7)):
        with pytest.raises(ValueError, match=r"^w has 7 weights"):
            split_layers(w, WIDTHS)
