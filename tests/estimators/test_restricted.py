"""Chains, Hessians and gradients that are restricted to single heads of attention."""

import pytest
import torch
from torch import nn
from torch.autograd import functional as derivatives
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

import geomfast as gf
from geomfast.estimators.checks import select_parameters
from geomfast.estimators.entries import select_entries, selected, sizes_of
from geomfast.kernels.gradient_gram import Factors, some_entries
from geomfast.kernels.gradient_gram.factors import block
from geomfast.losses import next_token
from tests import cases
from tests.estimators.attentions import IDS, NAMES, made

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
        select_parameters(model, "blocks.0 head 1")
