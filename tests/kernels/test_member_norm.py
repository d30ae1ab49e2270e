"""LayerNorm of members: torch's own with autograd, every instruction set."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from geomfast.kernels.member_norm import (
    OP,
    MemberNorm,
    member_norm,
    member_norm_backward,
)
from tests import cases

#: Members, tokens and numbers: less than a vector, whole ones, neither; more tokens than one sum.
SIZES = [(3, 70, 64), (1, 5, 20), (2, 1, 7), (2, 33, 128), (2, 40, 1), (2, 0, 8), (0, 3, 8)]


def given(members: int, tokens: int, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens far from the origin, their gradient, and gain and bias among other parameters."""
    x = 3.0 * cases.normal(members, tokens, size) + 5.0
    gain, bias = cases.normal(2, members, size + 9, seed=1)[..., :size]
    return x, cases.normal(members, tokens, size, seed=2), gain, bias


def exact(x: Tensor, into: Tensor, gain: Tensor, bias: Tensor) -> list[Tensor]:
    """The output, then the gradients of x, gain and bias."""
    leaves = [leaf.double().requires_grad_() for leaf in (x, gain, bias)]
    out = F.layer_norm(leaves[0], x.shape[-1:]) * leaves[1][:, None] + leaves[2][:, None]
    return [out, *torch.autograd.grad(out, leaves, into.double())]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_is_layer_norm_and_its_gradient(backend: str, sizes: tuple[int, int, int]) -> None:
    assert backend == OP.backend_for(torch.empty(0))
    x, into, gain, bias = given(*sizes)
    expected = exact(x, into, gain, bias)
    out, norm = member_norm(x, gain, bias)
    found = [out, *member_norm_backward(norm, into)]
    for one, other in zip(found, expected, strict=True):
        # Of one number nothing is left but the bias: gradients are zero, as far as they are known.
        assert (one - other).norm() <= 5e-7 * other.norm() + 1e-6


def test_many_tokens_lose_no_digits(backend: str) -> None:
    x, into, gain, bias = given(1, 20_000, 16)
    _, norm = member_norm(x, gain, bias)
    found = member_norm_backward(norm, into)
    for one, other in zip(found, exact(x, into, gain, bias)[1:], strict=True):
        assert (one - other).norm() <= 1e-6 * other.norm()


def test_the_gradient_is_added_to_what_there_is(backend: str) -> None:
    x, into, gain, bias = given(3, 6, 20)
    _, norm = member_norm(x, gain, bias)
    alone = member_norm_backward(norm, into)[0]
    beside = cases.normal(2, 3, 29, seed=3)
    sums, kept = torch.ones_like(x), beside[..., 20:].clone()
    OP[backend].backward(norm, into, sums, *beside[..., :20])
    torch.testing.assert_close(sums, 1.0 + alone)
    assert torch.equal(beside[..., 20:], kept)


@pytest.mark.parametrize("isa", cases.isas())
def test_members_do_not_know_of_each_other(isa: str, monkeypatch) -> None:
    """A member has the same bits alone and among others, NaN beside it or not, on any threads."""
    monkeypatch.setenv("GEOMFAST_ISA", isa)
    x, into, gain, bias = given(24, 300, 80)
    x[1] = torch.nan
    before = torch.get_num_threads()
    try:
        runs = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            out, norm = member_norm(x, gain, bias)
            runs.append([out, *member_norm_backward(norm, into)])
    finally:
        torch.set_num_threads(before)
    out, norm = member_norm(x[2:3], gain[2:3], bias[2:3])
    alone = [out, *member_norm_backward(norm, into[2:3])]
    for one, other, own in zip(*runs, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
        assert one[[0, *range(2, 24)]].isfinite().all()
        assert torch.equal(one[2:3], own)
    assert runs[0][0][1].isnan().all()


@pytest.mark.parametrize("isa", cases.isas())
def test_threads_share_the_tokens_of_one_member(isa: str, monkeypatch) -> None:
    monkeypatch.setenv("GEOMFAST_ISA", isa)
    x, into, gain, bias = given(1, 6000, 100)
    before = torch.get_num_threads()
    try:
        runs = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            out, norm = member_norm(x, gain, bias)
            runs.append([out, norm.statistics, *member_norm_backward(norm, into)])
    finally:
        torch.set_num_threads(before)
    for one, other in zip(*runs, strict=True):
        assert torch.equal(one, other)


def test_nothing_is_recorded_for_autograd(backend: str) -> None:
    x, into, gain, bias = (y.requires_grad_() for y in given(2, 3, 8))
    out, norm = member_norm(x, gain, bias)
    found = [out, norm.statistics, *member_norm_backward(norm, into)]
    assert not any(y.requires_grad for y in found)


def test_strides_that_mean_nothing_are_no_matter(backend: str) -> None:
    """Of one member, rows of gain and bias are no distance apart."""
    x, into, gain, bias = given(1, 5, 8)
    out, norm = member_norm(x, gain, bias.contiguous())
    again, _ = member_norm(x, gain.T.contiguous().T, bias)
    assert torch.equal(again, out)
    x, into, gain, bias = given(2, 5, 1)
    out, norm = member_norm(x, gain, gain)
    torch.testing.assert_close(out, gain[:, None].expand_as(x))
    member_norm_backward(norm, into)


def test_double_is_served_in_double() -> None:
    x, into, gain, bias = (y.double() for y in given(2, 5, 12))
    assert OP.available_backends(x) == ["torch", "reference"]
    out, norm = member_norm(x, gain, bias)
    found = [out, *member_norm_backward(norm, into)]
    for one, other in zip(found, exact(x, into, gain, bias), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_what_is_added_to_the_variance(backend: str) -> None:
    x, _, gain, bias = given(2, 3, 8)
    found, _ = member_norm(x, gain, bias, eps=2.0)
    expected = F.layer_norm(x.double(), (8,), eps=2.0) * gain[:, None] + bias[:, None]
    torch.testing.assert_close(found, expected.float())
    out = torch.empty_like(x)
    OP[backend].forward(MemberNorm(x, gain, bias, torch.empty(2, 3, 2), 2.0), out)
    assert torch.equal(out, found)


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"x": torch.zeros(2, 4)}, "x must be"),
        ({"x": torch.zeros(2, 4, 8).half()}, "x must be"),
        ({"x": torch.zeros(2, 8, 4).mT}, "contiguous"),
        ({"gain": torch.zeros(2, 7)}, r"gain must be \(2, 8\)"),
        ({"bias": torch.zeros(2, 8).double()}, "bias must be"),
        ({"bias": torch.zeros(8, 2).T}, "beside each other"),
        ({"bias": torch.zeros(2, 9)[:, :8]}, "as far apart"),
    ],
)
def test_bad_input_is_refused(changed: dict[str, Tensor], complaint: str) -> None:
    fitting = {"x": torch.zeros(2, 4, 8), "gain": torch.zeros(2, 8), "bias": torch.zeros(2, 8)}
    with pytest.raises(ValueError, match=complaint):
        member_norm(**(fitting | changed))


def test_gradients_that_do_not_fit_are_refused() -> None:
    x, gain = torch.zeros(2, 4, 8), torch.zeros(2, 8)
    norm = MemberNorm(x, gain, gain, torch.zeros(2, 4, 2))
    with pytest.raises(ValueError, match="grad_output must be"):
        member_norm_backward(norm, torch.zeros(2, 4, 7))
    with pytest.raises(ValueError, match="statistics must be"):
        member_norm_backward(norm._replace(statistics=torch.zeros(2, 4, 1)), x)
    with pytest.raises(ValueError, match="grad_output must be contiguous"):
        member_norm_backward(norm, torch.zeros(2, 8, 4).mT)
