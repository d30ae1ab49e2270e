"""Single attention heads as parameters: which entries of which weights they are."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

import geomfast as gf
from geomfast.estimators.entries import select_entries, selected, sizes_of
from geomfast.estimators.heads import attentions, head_pattern
from geomfast.losses import next_token
from tests.estimators.attentions import IDS, NAMES, made


def before_projection(model, attention, out, values):
    """(N, T, heads x width): what heads have attended to, with other values of parameters."""
    seen = []
    module = model.get_submodule(f"{attention}.{out}")
    hook = module.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    try:
        with torch.no_grad():
            functional_call(model, values, (IDS,))
    finally:
        hook.remove()
    return torch.cat([x.reshape(5, 6, -1) for x in seen])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("head", [0, 1, 2])
def test_a_heads_entries_change_that_heads_output_alone(name, head):
    """All of its numbers before the output projection change, and no others' do; nor without it."""
    model, attention, out = made(name)
    found = select_entries(model, f"{attention} head {head}")
    before = before_projection(model, attention, out, {})
    for others in (False, True):
        values = {}
        for own, at in found.entries.items():
            if f".{out}." in own:
                continue  # which comes later
            flat = model.get_parameter(own).detach().clone().reshape(-1)
            moved = torch.ones_like(flat, dtype=torch.bool)
            moved[at] = False
            flat[moved if others else at] += 0.5
            values[own] = flat.view(model.get_parameter(own).shape)
        # Queries, keys and values are there, each with its bias.
        assert len(values) == (6 if name == "llama" else 2)
        after = before_projection(model, attention, out, values)
        change = (after - before).abs().view(5, 6, 3, 4).amax((0, 3))  # (T, heads)
        mine = torch.arange(3) == head
        if others:
            mine = ~mine
        assert (change[:, mine] > 1e-4).all() and (change[:, ~mine] < 1e-6).all()


@pytest.mark.parametrize("name", [*NAMES, "torch", "grouped"])
def test_what_a_head_writes_with(name):
    """Without its entries of the output projection a head's part of the output is gone."""
    model, attention, out = made(name)
    found = select_entries(model, f"{attention} head 1")
    (own,) = [n for n in found if f".{out or 'out_proj'}." in n]
    assert not own.endswith("bias")
    weight = model.get_parameter(own).detach().clone()
    weight.view(-1)[found.entries[own]] = 0.0
    heads = 4 if name == "grouped" else 3
    across = 0 if name == "gpt2" else 1
    by_head = weight.transpose(0, across).reshape(heads, -1)
    assert [bool(x.any()) for x in by_head] == [h != 1 for h in range(heads)]


def test_torchs_own_attention():
    """One head alone, computed from its entries."""
    model, attention, _ = made("torch")
    found = select_entries(model, f"{attention} head 2")
    taken = dict(zip(found, selected(found), strict=True))
    x = model.tokens(IDS).detach()
    w = taken["attention.in_proj_weight"].view(3, 4, 12)
    q, k, v = (x @ w[i].T + taken["attention.in_proj_bias"].view(3, 4)[i] for i in range(3))
    mixed = (q @ k.mT / 2).softmax(-1) @ v
    expected = mixed @ taken["attention.out_proj.weight"].view(12, 4).T
    every = model.attention(x, x, x, need_weights=False)[0]
    with torch.no_grad():
        model.attention.out_proj.weight.view(-1)[found.entries["attention.out_proj.weight"]] = 0.0
        without = model.attention(x, x, x, need_weights=False)[0]
    torch.testing.assert_close(expected, (every - without).detach(), rtol=1e-4, atol=1e-5)


def test_groups_share_keys_and_values():
    """Head K has the key/value head of its group; queries and outputs are its own."""
    model, attention, out = made("grouped")
    every = [select_entries(model, f"{attention} head {h}") for h in range(4)]
    for part, shared in {"q": False, "k": True, "v": True, "o": False}.items():
        at = [one.entries[f"{attention}.{part}_proj.weight"].tolist() for one in every]
        assert (at[0] == at[1]) == (at[2] == at[3]) == shared
        assert at[1] != at[2] and not set(at[1]) & set(at[2])
        assert sorted({i for one in at for i in one}) == list(range(len(set().union(*at))))
    before = before_projection(model, attention, out, {})
    values = {}
    for own, at in every[1].entries.items():
        if ".o_proj." not in own:
            flat = model.get_parameter(own).detach().clone()
            flat.view(-1)[at] += 0.5
            values[own] = flat
    after = before_projection(model, attention, out, values)
    change = (after - before).abs().view(5, 6, 4, 4).amax((0, 1, 3))
    assert (change[:2] > 1e-4).all() and (change[2:] < 1e-6).all()


@pytest.mark.parametrize("name", [*NAMES, "torch"])
def test_heads_share_nothing_and_are_all_of_an_attention(name):
    model, attention, _ = made(name)
    heads = [select_entries(model, f"{attention} head {h}") for h in range(3)]
    every = select_entries(model, f"{attention} heads 0-2")
    assert not every.entries  # whole weights
    total = [sum(sizes_of(h)[n] for h in heads) for n in heads[0]]
    assert total == [p.numel() for p in every.values()]
    assert "bias" not in {n.split(".")[-2] for n in every} and all(
        "out" not in n or "weight" in n for n in every
    )


def test_patterns():
    model, _, _ = made("ours")
    assert head_pattern("blocks.*.norm_1.weight") is None
    assert head_pattern("blocks.* heads 0-2,5") == ("blocks.*", [0, 1, 2, 5])
    assert [one.names for one in attentions(model)] == [
        ("blocks.0", "blocks.0.attention"), ("blocks.1", "blocks.1.attention"),
    ]  # fmt: skip
    one = select_entries(model, "blocks.0 head 1")
    assert list(one) == [
        "blocks.0.attention_in.weight", "blocks.0.attention_in.bias",
        "blocks.0.attention_out.weight",
    ]  # fmt: skip
    assert sizes_of(one) == {
        "blocks.0.attention_in.weight": 3 * 4 * 12, "blocks.0.attention_in.bias": 12,
        "blocks.0.attention_out.weight": 12 * 4,
    }  # fmt: skip
    assert list(select_entries(model, ["blocks.*.attention head 0"])) == [
        n.replace("blocks.0", f"blocks.{b}") for b in (0, 1) for n in one
    ]
    # Parameters and heads together, and what is left out of each.
    mixed = select_entries(model, ["blocks.0 heads 0,2", "blocks.0.mlp*", "!*.bias"])
    assert sizes_of(mixed) == {
        "blocks.0.attention_in.weight": 2 * 144, "blocks.0.attention_out.weight": 96,
        "blocks.0.mlp_in.weight": 48 * 12, "blocks.0.mlp_out.weight": 12 * 48,
    }  # fmt: skip
    rest = select_entries(model, ["!blocks.0 head 1", "!tokens*"])
    whole = select_entries(model, ["!tokens*"])
    assert sum(sizes_of(rest).values()) == sum(sizes_of(whole).values()) - sum(
        sizes_of(one).values()
    )
    for name, at in rest.entries.items():
        both = torch.cat([at, one.entries[name]]).sort().values
        assert torch.equal(both, torch.arange(model.get_parameter(name).numel()))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ("blocks.0 head", "'blocks.0 head' is neither a pattern of names nor one"),
        ("blocks.0 head x", "is neither a pattern of names nor one of heads"),
        ("blocks.0 heads 2-1", "heads 2-1 are none"),
        ("blocks.7 head 0", "is known matches 'blocks.7'; there are: blocks.0"),
        ("blocks.0 head 3", "blocks.0 has heads 0 to 2, not 3"),
        (["blocks.0 head 0", "nothing"], "'nothing' matches none of"),
        (["blocks.0 head 0", "!blocks.0 heads 0-2"], "leaves no parameter"),
    ],
)  # fmt: skip
def test_what_is_no_head(params, message):
    model, _, _ = made("ours")
    with pytest.raises(ValueError, match=message):
        gf.llc(model, next_token, IDS, lr=1e-5, params=params)
    with pytest.raises(ValueError, match=message):
        gf.gradient_gram(model, next_token, IDS, params=params)


@pytest.mark.parametrize("name", ["gpt2", "neox", "llama", "grouped"])
def test_as_devinterp(name):
    """Its masks leave out the biases of Llama's queries, keys and values; all else is the same."""
    restrictions = pytest.importorskip("devinterp.slt.weight_restrictions", exc_type=ImportError)
    model, attention, _ = made(name)
    for head in range(3):
        theirs = restrictions.create_param_masks(model, f"l1h{head}")
        ours = select_entries(model, f"{attention} head {head}")
        apart = set(theirs) ^ set(ours)
        assert all(n.endswith("_proj.bias") for n in apart) and set(theirs) <= set(ours)
        for own, mask in theirs.items():
            assert torch.equal(mask.reshape(-1).nonzero()[:, 0], ours.entries[own])


def test_unknown_layouts_are_refused():
    class Other(nn.Module):
        """Named like GPT-2's, but of another class: its order of heads is not known."""

        def __init__(self):
            super().__init__()
            self.c_attn, self.c_proj = nn.Linear(12, 36), nn.Linear(12, 12)
            self.num_heads, self.head_dim = 3, 4

    with pytest.raises(ValueError, match=r"no attention .* matches '\*'; there are: none"):
        select_entries(Other(), "* head 0")
