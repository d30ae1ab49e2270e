"""Activations by hooks: of which modules, at which positions, and nothing left behind."""

import gc
import logging

import pytest
import torch
from torch import nn

from geomfast.measures.model.evaluation import evaluating
from geomfast.measures.model.states import NoStates, activations, find_blocks
from geomfast.testbed.models.gpt import GPT
from geomfast.testbed.models.scales import Scale
from tests import cases


class Plain(nn.Module):
    """Blocks with a norm before and one behind, an experts' list inside, dropout."""

    def __init__(self, width=4):
        super().__init__()
        self.table = nn.Embedding(11, width)
        self.first_norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(Block(width) for _ in range(3))
        self.norm = nn.LayerNorm(width)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(width, 11)

    def forward(self, x):
        x = self.first_norm(self.table(x))
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(self.drop(x)))


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.experts = nn.ModuleList(nn.Linear(width, width) for _ in range(8))

    def forward(self, x):
        for expert in self.experts[:2]:
            x = x + expert(self.norm(x))
        return x, "and something else"


class Unpacking(nn.Module):
    """Whose forward takes the state out of what a block gives."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        return self.block(x)[0]


def plain():
    torch.manual_seed(0)
    model = Plain()
    model.layers = nn.ModuleList(Unpacking(layer) for layer in model.layers)
    return model


TOKENS = torch.randint(0, 11, (6, 5), generator=cases.generator(3))


def by_hand(model, tokens):
    x = model.first_norm(model.table(tokens))
    found = {}
    for i, layer in enumerate(model.layers, start=1):
        x = found[f"block {i}"] = layer(x)
    found["final"] = model.norm(x)
    return found


@pytest.mark.parametrize("training", [True, False])
def test_blocks_and_the_last_norm(training):
    model = plain().train(training)
    model.layers[1].eval()
    modes = [module.training for module in model.modules()]
    hooks = [len(module._forward_hooks) for module in model.modules()]
    state = torch.random.get_rng_state()
    found = activations(model, TOKENS)
    expected = by_hand(model.eval(), TOKENS)
    assert list(found) == ["block 1", "block 2", "block 3", "final"]
    for label, x in found.items():
        assert not x.requires_grad
        torch.testing.assert_close(x, expected[label][:, -1].detach())
    model.train(training)
    model.layers[1].eval()
    assert [module.training for module in model.modules()] == modes
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    assert torch.equal(torch.random.get_rng_state(), state)


def test_outputs_that_are_tuples():
    model = plain()
    found = activations(model, TOKENS, layers=[f"layers.{i}.block" for i in range(3)])
    torch.testing.assert_close(found["block 2"], activations(model, TOKENS)["block 2"])


def test_modes_are_restored_after_an_error():
    model = plain().train()
    with pytest.raises(ZeroDivisionError), evaluating(model):
        assert not model.training
        raise ZeroDivisionError
    assert all(module.training for module in model.modules())
    with pytest.raises(NoStates):
        activations(model, TOKENS, layers=["layers"])
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("side", ["left", "right"])
def test_positions_count_real_tokens_only(side):
    model = plain()
    lengths = torch.tensor([5, 1, 3, 2, 4, 5])
    mask = (torch.arange(5) < lengths[:, None]).long()
    if side == "left":
        mask = mask.flip(1)
    batch = {"input_ids": TOKENS, "attention_mask": mask}
    states = by_hand(model.eval(), TOKENS)
    run = {"call": lambda model, batch: model(batch["input_ids"])}
    last = activations(model, batch, **run)
    mean = activations(model, batch, position="mean", **run)
    for label, x in states.items():
        for i, length in enumerate(lengths.tolist()):
            real = x[i, :length] if side == "right" else x[i, 5 - length :]
            torch.testing.assert_close(last[label][i], real[-1].detach())
            torch.testing.assert_close(mean[label][i], real.mean(0).detach())


def test_batches_are_joined_and_cut():
    model = plain()
    whole = activations(model, TOKENS, position="mean")
    several = activations(model, [TOKENS[:1], TOKENS[1:]], position="mean", batch_size=2)
    labelled = activations(model, (TOKENS, torch.zeros(6)), position="mean")
    for label, x in whole.items():
        torch.testing.assert_close(several[label], x)
        torch.testing.assert_close(labelled[label], x)


def test_our_own_model_whose_blocks_give_rows_without_samples():
    model = GPT(Scale("tiny", 2, 16, 2, 1e-3, 11, 8), 0)
    found = activations(model, TOKENS)
    collected = []
    model(TOKENS, collect=collected)
    assert list(found) == ["block 1", "block 2", "final"]
    for x, layer in zip(found.values(), collected, strict=True):
        torch.testing.assert_close(x, layer[:, -1].detach())


def test_layers_without_positions():
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

        def forward(self, x):
            for layer in self.layers:
                x = torch.tanh(layer(x))
            return x

    model, x = Deep(), cases.normal(7, 4)
    found = activations(model, x)
    assert list(found) == ["block 1", "block 2", "block 3", "final"]
    assert torch.equal(found["final"], found["block 3"])  # no norm, no head
    torch.testing.assert_close(found["block 1"], model.layers[0](x).detach())
    named = activations(model, x, layers=["layers.0", "layers.2"], final="layers.1")
    assert list(named) == ["block 1", "final", "block 2"]
    torch.testing.assert_close(named["final"], found["block 2"])


def test_blocks_are_the_longest_list_that_is_in_no_other():
    assert find_blocks(plain()) == ["layers.0", "layers.1", "layers.2"]
    two = nn.ModuleDict({"short": nn.ModuleList([nn.Identity()]), "whole": plain()})
    assert find_blocks(two) == [f"whole.layers.{i}" for i in range(3)]
    assert find_blocks(nn.ModuleList([nn.Identity()])) == ["0"]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (nn.Linear(4, 4), "$"),
        (nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), r'layers=\["0"\]'),
        (
            nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)),
            r'layers=\["1", "3"\]',
        ),
        (  # nothing inside torch's own layer: its attention calls no module for its output
            nn.Sequential(
                nn.Linear(4, 8),
                nn.TransformerEncoderLayer(8, 2, 8),
                nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4)),
            ),
            r'layers=\["0", "1", "2.0"\]',
        ),
    ],
)
def test_layers_that_a_model_without_blocks_may_name(model, said):
    with pytest.raises(NoStates, match=rf"has no list of blocks .*name its layers.*{said}"):
        activations(model, cases.normal(3, 4))


def test_a_list_that_comes_out_of_an_iterable_is_a_batch():
    model = plain()
    expected = activations(model, (TOKENS, torch.zeros(6)))
    for label, x in activations(model, [[TOKENS, torch.zeros(6)]]).items():
        assert torch.equal(x, expected[label])


def test_what_will_not_do():
    with pytest.raises(ValueError, match=r"Plain has no module 'blocks\.0'"):
        activations(plain(), TOKENS, layers=["blocks.0"])
    with pytest.raises(ValueError, match="position must be one of last, mean, flat, not 'first'"):
        activations(plain(), TOKENS, position="first")
    with pytest.raises(NoStates, match=r"block 1 gives \(6, 2, 2, 5\), a feature map"):
        model = nn.Sequential(nn.Conv1d(1, 4, 1), nn.Unflatten(1, (2, 2)))
        activations(model, cases.normal(6, 1, 5), layers=["1"])
    with pytest.raises(NoStates, match=r"block 1 gives \(5, 4\), not"):
        activations(nn.Embedding(11, 4), TOKENS, layers=[""], call=lambda m, b: m(b[0]))
    with pytest.raises(NoStates, match="block 2 of Plain was not run"):
        activations(plain(), TOKENS, layers=["layers.0", "layers.1.block.experts.7"])
    with pytest.raises(NoStates, match="block 1 of Plain runs more than once"):
        activations(plain(), TOKENS, layers=["layers.1.block.norm"])
    with pytest.raises(NoStates, match="final of Plain runs more than once"):
        activations(plain(), TOKENS, final="layers.1.block.norm")
    with pytest.raises(NoStates, match="final of Plain was not run"):
        activations(plain(), TOKENS, final="layers.1.block.experts.7")


def test_half_the_samples_where_memory_does_not_suffice(caplog, monkeypatch):
    monkeypatch.setattr(gc, "collect", lambda: 0)  # which takes its time
    model = plain()
    expected = activations(model, TOKENS)

    def call(model, batch):
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return model(batch)

    with caplog.at_level(logging.WARNING, "geomfast"):
        found = activations(model, TOKENS, call=call)
    for label, x in found.items():
        torch.testing.assert_close(x, expected[label])
    assert caplog.messages == [
        "out of memory: taking activations continues with 3 samples at a time",
        "out of memory: taking activations continues with 1 samples at a time",
    ]

    def never(model, batch):
        raise MemoryError

    with pytest.raises(MemoryError):
        activations(model, TOKENS, call=never, notice=lambda said: None)


class Maps(nn.Module):
    """Feature maps of two sizes, and what a head reads of them."""

    def __init__(self, rank=2):
        super().__init__()
        torch.manual_seed(0)
        kind = {2: nn.Conv2d, 3: nn.Conv3d}[rank]
        self.layers = nn.ModuleList([kind(2, 3, 2), kind(3, 4, 2)])
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        for layer in self.layers:
            x = self.act(layer(x))
        return self.head(x.flatten(2).mean(2))


@pytest.mark.parametrize("rank", [2, 3])
def test_feature_maps(rank):
    model, x = Maps(rank), cases.normal(6, 2, *([5] * rank))
    first = model.layers[0](x).detach()
    second = model.layers[1](first.relu()).detach()
    mean = activations(model, x, position="mean", final="head")
    torch.testing.assert_close(mean["block 1"], first.flatten(2).mean(2))
    torch.testing.assert_close(mean["block 2"], second.flatten(2).mean(2))
    flat = activations(model, x, position="flat", final="head", batch_size=4)
    # What the layer gave, and not what an operation in place has made of it since.
    torch.testing.assert_close(flat["block 1"], first.flatten(1))
    torch.testing.assert_close(flat["block 2"], second.flatten(1))
    with pytest.raises(NoStates, match=r'block 1 gives .*position="mean".*3 channels.*"flat", all'):
        activations(model, x, final="head")


def test_what_follows_in_place_changes_nothing():
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(inplace=True), nn.Linear(4, 4))
    x = cases.normal(6, 5)
    for position in ("last", "mean", "flat"):
        found = activations(model, x, layers=["0"], final="2", position=position)
        torch.testing.assert_close(found["block 1"], model[0](x).detach())


def test_every_position_one_after_the_other():
    model = plain().eval()
    mask = (torch.arange(5) < torch.tensor([5, 1, 3, 2, 4, 5])[:, None]).long()
    states = by_hand(model, TOKENS)["block 2"].detach()
    run = {"call": lambda model, batch: model(batch["input_ids"]), "position": "flat"}
    found = activations(model, {"input_ids": TOKENS, "attention_mask": mask}, **run)
    torch.testing.assert_close(found["block 2"], (states * mask[..., None]).flatten(1))
    torch.testing.assert_close(
        activations(model, TOKENS, position="flat")["block 2"], states.flatten(1)
    )
