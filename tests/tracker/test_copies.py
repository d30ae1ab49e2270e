"""The copy that is measured, and that working with it leaves no trace."""

import random
import threading

import numpy as np
import pytest
import torch
from torch import nn

from geomfast.tracker.copies import EvaluationCopy, preserve_rng_state, unwrapped
from tests.tracker.tracked import WIDTH, net


def test_takes_over_weights_buffers_and_what_is_trainable():
    model = net()
    made = EvaluationCopy(model)
    model(torch.randn(8, WIDTH))  # moves the running mean
    with torch.no_grad():
        model.head.weight.add_(1.0)
    model.head.bias.requires_grad_(False)
    assert not torch.equal(made.module.head.weight, model.head.weight)
    made.refresh()
    for name, value in model.state_dict().items():
        assert torch.equal(made.module.state_dict()[name], value), name
        assert made.module.state_dict()[name].data_ptr() != value.data_ptr()
    assert not made.module.head.bias.requires_grad and made.module.head.weight.requires_grad
    assert model.training and not any(module.training for module in made.module.modules())


def test_tied_weights_stay_tied():
    model = net()
    model.head.weight = nn.Parameter(torch.randn(4, WIDTH))
    model.again = nn.Linear(WIDTH, 4)
    model.again.weight = model.head.weight
    made = EvaluationCopy(model)
    assert made.module.again.weight is made.module.head.weight


def test_a_buffer_that_grows():
    model = net()
    model.register_buffer("cache", torch.zeros(2), persistent=False)
    made = EvaluationCopy(model)
    model.cache = torch.arange(5.0)
    made.refresh()
    assert torch.equal(made.module.cache, torch.arange(5.0))
    assert made.module.cache is not model.cache


def test_a_model_that_changes_is_named():
    model = net()
    made = EvaluationCopy(model)
    model.more = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"has changed .*: more"):
        made.refresh()


def test_hooks_stay_with_the_model(caplog):
    model, seen = net(), []
    model.head.register_forward_hook(lambda *_: seen.append("forward"))
    model.register_forward_pre_hook(lambda *_: seen.append("before"))
    model.head.register_full_backward_hook(lambda *_: seen.append("backward"))
    made = EvaluationCopy(model)
    assert "3 hooks of the model do not run on the copy measured (of Net, head)" in caplog.text
    made.module(torch.randn(2, WIDTH)).sum().backward()
    assert not seen
    model(torch.randn(2, WIDTH)).sum().backward()
    assert seen == ["before", "forward", "backward"]


def test_unwrapped():
    model = net()
    assert unwrapped(model) is model
    compiled = nn.Module()
    compiled._orig_mod = model  # as torch.compile wraps it, whose import takes seconds
    assert unwrapped(nn.DataParallel(compiled)) is model


def test_sharded_parameters_are_refused():
    model = net()
    model.head.weight.placements = ("shard",)
    with pytest.raises(ValueError, match=r"head\.weight is sharded"):
        unwrapped(model)


def test_what_cannot_be_copied():
    with pytest.raises(ValueError, match="Identity has no parameters"):
        EvaluationCopy(nn.Identity())
    model = net()
    model.lock = threading.Lock()
    with pytest.raises(ValueError, match="Net cannot be copied"):
        EvaluationCopy(model)


def test_aside_leaves_random_numbers_alone():
    def drawn():
        return torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()

    def seeded():
        for seeding in (random.seed, np.random.seed, torch.manual_seed):
            seeding(3)

    seeded()
    expected = drawn()
    seeded()
    with pytest.raises(RuntimeError), preserve_rng_state(torch.device("cpu")):
        drawn()
        raise RuntimeError
    assert drawn() == expected


def test_aside_has_gradients_and_no_automatic_casts():
    weight = torch.ones(2, 2, requires_grad=True)
    with (
        torch.inference_mode(),
        torch.autocast("cpu", torch.bfloat16),
        preserve_rng_state(torch.device("cpu")),
    ):
        product = weight @ weight
    assert product.requires_grad and product.dtype == torch.float32


def test_tensors_of_a_graph_are_copied_as_values():
    model = net()
    model.kept = {"of": [(model.head.weight * 2).sum()], "x": torch.ones(2)}
    model.register_buffer("mean", model.head.weight.mean(0), persistent=False)
    made = EvaluationCopy(model)
    (kept,) = made.module.kept["of"]
    assert kept.is_leaf and torch.equal(kept, model.kept["of"][0]) and not kept.requires_grad
    assert torch.equal(made.module.mean, model.mean) and made.module.mean.is_leaf
    made.refresh()
    assert not model.kept["of"][0].is_leaf
