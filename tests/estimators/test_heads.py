"""Single attention heads as parameters: which entries they are, and what is restricted to them."""

import pytest
import torch
from torch import nn
from torch.autograd import functional as derivatives
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

import geomfast as gf
from geomfast.estimators.entries import select_entries, selected, sizes_of
from geomfast.estimators.heads import attentions, head_pattern
from geomfast.kernels.gradient_gram import Factors, some_entries
from geomfast.kernels.gradient_gram.factors import block
from geomfast.losses import next_token
from geomfast.testbed.models.gpt import GPT
from geomfast.testbed.models.scales import Scale
from tests import cases

IDS = torch.randint(0, 7, (5, 6), generator=cases.generator(1))


class Encoder(nn.Module):
    """Self-attention by torch's own module."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(7, 12)
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)
        self.out = nn.Linear(12, 7)

    def forward(self, ids):
        x = self.tokens(ids)
        return self.out(x + self.attention(x, x, x, need_weights=False)[0])


def ours():
    return GPT(Scale("tiny", 2, 12, 3, 1e-3, 7, 6), 0), "blocks.1", "attention_out"


def torchs():
    return Encoder(), "attention", None


def hugging_face(name):
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 7, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3}
    sizes |= {"intermediate_size": 16, "attn_implementation": "eager", "bos_token_id": 1}
    sizes |= {"eos_token_id": 1, "pad_token_id": 0, "max_position_embeddings": 8}
    if name == "gpt2":
        made = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                vocab_size=7, n_embd=12, n_layer=2, n_head=3, n_positions=8, bos_token_id=1,
                eos_token_id=1, attn_implementation="eager",
            )
        )  # fmt: skip
        return made.eval(), "transformer.h.1.attn", "c_proj"
    if name == "neox":
        made = transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**sizes))
        return made.eval(), "gpt_neox.layers.1.attention", "dense"
    if name == "grouped":
        sizes |= {"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2}
    made = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, attention_bias=True))
    return made.eval(), "model.layers.1.self_attn", "o_proj"


def made(name):
    """A model whose every weight counts, the name of an attention, and of its output projection."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, attention, out = {"ours": ours, "torch": torchs}.get(
            name, lambda: hugging_face(name)
        )()
        with torch.no_grad():
            for p in model.parameters():
                p += 0.3 * torch.randn_like(p)
    return model, attention, out


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


NAMES = ["ours", "gpt2", "neox", "llama"]


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


# Chains


@pytest.mark.parametrize("name", ["ours", "gpt2", "grouped", "torch"])
@pytest.mark.parametrize("stacked", [True, False])
def test_chains_move_those_entries_alone(name, stacked):
    """All other entries stay what they are to the bit, in every call of the model."""
    model, attention, _ = made(name)
    pattern = f"{attention} head 1"
    found = select_entries(model, pattern)
    seen = []

    def loss(model, ids):
        for own in found:
            module, _, last = own.rpartition(".")
            seen.append((own, getattr(model.get_submodule(module), last).detach().clone()))
        return next_token(model, ids)

    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    run = gf.llc(
        model, loss if not stacked else next_token, IDS, lr=1e-3, nbeta=5.0, localization=10.0,
        chains=2, draws=4, burn_in=0, params=[pattern], stacked=stacked, momentum=0.2,
    )  # fmt: skip
    assert run.stacked == (2 if stacked else 1)
    for own, value in seen:
        rest = torch.ones(value.numel(), dtype=torch.bool)
        rest[found.entries[own]] = False
        assert torch.equal(value.view(-1)[rest], before[own].view(-1)[rest])
    if not stacked:
        moved = [not torch.equal(value, before[own]) for own, value in seen]
        assert sum(moved) == 2 * 3 * len(found)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_chains_of_heads_are_those_of_a_model_with_the_heads_as_parameters():
    """The same noise, gradients, localization and dimension: the same traces and diagnostics."""
    model, _, _ = made("ours")
    found = select_entries(model, "blocks.0 head 1")

    class Only(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ParameterList(nn.Parameter(x.clone()) for x in selected(found))
            self.frozen = [model]

        def forward(self, ids):
            values = {}
            for (own, at), part in zip(found.entries.items(), self.parts, strict=True):
                whole = self.frozen[0].get_parameter(own).detach()
                values[own] = whole.reshape(-1).index_copy(0, at, part).view(whole.shape)
            return functional_call(self.frozen[0], values, (ids,))

    options = {"lr": 1e-3, "nbeta": 5.0, "localization": "norm", "draws": 20, "burn_in": 2}
    for batch_size in (None, 2):
        one = gf.llc(
            model, next_token, IDS, params="blocks.0 head 1", batch_size=batch_size, **options
        )
        other = gf.llc(Only(), next_token, IDS, batch_size=batch_size, **options)
        torch.testing.assert_close(one.excess_trace, other.excess_trace, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(one.distance, other.distance, rtol=1e-5, atol=1e-6)
        assert one.localization == pytest.approx(other.localization)
        assert one.degree == pytest.approx(other.degree, rel=1e-2, nan_ok=True)
        assert one.step_bias == pytest.approx(other.step_bias, rel=1e-2)


def test_an_automatic_step_and_a_component():
    model, _, _ = made("ours")
    heads = {f"head {h}": f"blocks.1 head {h}" for h in (0, 2)}
    found = gf.susceptibility(
        model, next_token, IDS, components=heads, observe={"others": IDS[:3]}, nbeta=5.0,
        localization=50.0, draws=20, chains=2,
    )  # fmt: skip
    assert found.components == ("head 0", "head 2")
    assert found.values["others"].shape == (2, 3) and found.values["others"].isfinite().all()


# Curvature and gradients


@pytest.mark.parametrize("name", ["ours", "gpt2", "torch"])
@pytest.mark.parametrize("matrix", ["hessian", "gauss-newton"])
def test_the_hessian_is_the_submatrix(name, matrix):
    model, attention, _ = made(name)
    model = model.double()
    pattern = f"{attention} head 1"
    found = select_entries(model, pattern)
    whole = {n: p.detach() for n, p in found.items()}
    start = torch.cat(selected(found))

    def outputs(flat):
        values, parts = {}, flat.split(list(sizes_of(found).values()))
        for (own, at), part in zip(found.entries.items(), parts, strict=True):
            values[own] = whole[own].reshape(-1).index_copy(0, at, part).view(whole[own].shape)
        with sdpa_kernel(SDPBackend.MATH):  # others have no second derivative
            out = functional_call(model, values, (IDS,))
        return getattr(out, "logits", out)

    def loss(logits):
        return next_token(lambda ids: logits, IDS).mean()

    if matrix == "hessian":
        dense = derivatives.hessian(lambda x: loss(outputs(x)), start)
    else:
        jacobian = derivatives.jacobian(outputs, start).flatten(0, 2)
        inner = derivatives.hessian(loss, outputs(start).detach()).flatten(3, 5).flatten(0, 2)
        dense = jacobian.T @ inner @ jacobian
    values = torch.linalg.eigvalsh(dense).flip(0)
    options = {"params": pattern, "matrix": matrix}
    top = gf.hessian_top_eigenvalues(model, next_token, IDS, k=2, tol=1e-8, **options)
    torch.testing.assert_close(top.values, values[:2], rtol=1e-6, atol=1e-9)
    assert top.vectors.shape == (2, len(start))
    residual = dense @ top.vectors[0].double() - values[0] * top.vectors[0]
    assert residual.norm() < 1e-5 * values[0]
    trace = gf.hessian_trace(model, next_token, IDS, probes=len(start), **options)
    assert trace.mean == pytest.approx(dense.trace().item(), rel=1e-6)
    density = gf.hessian_density(model, next_token, IDS, probes=2, iterations=5, **options)
    assert density.nodes.max() <= values[0] * (1 + 1e-6)


def test_blocks_of_the_hessian():
    model, _, _ = made("ours")
    model = model.double()
    found = gf.hessian_top_eigenvalues(
        model, next_token, IDS, params="blocks.0 head 1", per_layer=True, tol=1e-6
    )
    assert set(found) == {"blocks.0.attention_in", "blocks.0.attention_out"}
    alone = gf.hessian_top_eigenvalues(
        model, next_token, IDS, tol=1e-6,
        params=["blocks.0 head 1", "!blocks.0.attention_in*"],
    )  # fmt: skip
    torch.testing.assert_close(
        found["blocks.0.attention_out"].values, alone.values, rtol=1e-5, atol=1e-9
    )


@pytest.mark.parametrize("name", [*NAMES, "torch"])
@pytest.mark.parametrize("center", [False, True])
def test_gradient_gram(name, center):
    """Of the gradients' entries of two heads, of a norm and, where it is cut, of both axes."""
    model, attention, _ = made(name)
    patterns = [f"{attention} heads 0,2", "*bias"]
    found = select_entries(model, patterns)
    rows = []
    for i in range(len(IDS)):
        loss = next_token(model, IDS[i : i + 1]).sum()
        gradients = torch.autograd.grad(loss, list(found.values()))
        rows.append(
            torch.cat(
                [
                    g.reshape(-1)[found.entries[n]] if n in found.entries else g.reshape(-1)
                    for n, g in zip(found, gradients, strict=True)
                ]
            )
        )
    rows = torch.stack(rows).double()
    rows = rows - rows.mean(0) if center else rows
    gram = gf.gradient_gram(model, next_token, IDS, params=patterns, center=center)
    torch.testing.assert_close(gram, rows @ rows.T, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize("which", ["rows", "columns", "grid", "scattered"])
def test_factors_of_some_entries(one_hot, which):
    left = cases.normal(4, 3, 5)
    if one_hot:
        left = torch.randint(0, 5, (4, 3), generator=cases.generator())
    uses = [Factors(left, cases.normal(4, 3, 6, seed=seed), 5) for seed in (1, 2)]
    mask = torch.zeros(5, 6, dtype=torch.bool)
    mask[{"columns": slice(None), "scattered": [0, 3]}.get(which, slice(1, 4))] = which == "rows"
    if which in ("columns", "grid"):
        mask[slice(None) if which == "columns" else slice(1, 4), 2:4] = True
    if which == "scattered":
        mask[[0, 3, 3], [1, 1, 5]] = True
    entries = mask.view(-1).nonzero()[:, 0]
    dense = torch.nn.functional.one_hot(left, 5).float() if one_hot else left
    expected = sum(dense.mT @ use.right for use in uses).flatten(1)[:, entries]
    found = some_entries(uses, entries)
    torch.testing.assert_close(block(found, 0, found[0].rows), expected)


def test_what_cannot_be_restricted_says_so():
    model, _, _ = made("ours")
    with pytest.raises(ValueError, match="cannot be restricted: name whole parameters"):
        from geomfast.estimators.checks import select_parameters

        select_parameters(model, "blocks.0 head 1")
