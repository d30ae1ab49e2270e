"""Encodings of positions: the papers' formulas, causality, and that starts do not matter."""

import copy
import dataclasses

import pytest
import torch
from torch import Tensor

from geomfast.testbed.models.gpt import GPT
from geomfast.testbed.models.positions import alibi_slopes, attention, relative_to, rotary_angles
from geomfast.testbed.models.scales import POSITIONAL_ENCODINGS, Scale
from tests import cases

RELATIVE = POSITIONAL_ENCODINGS[1:]
HEADS = [1, 2, 3]


def scale(positions: str, heads: int = 2, layers: int = 2) -> Scale:
    return Scale("", layers, 8 * heads, heads, 1e-3, 13, 11, positions)


def model(positions: str, heads: int = 2, layers: int = 2) -> GPT:
    """A model whose attention is far from even."""
    made = GPT(scale(positions, heads, layers), 3)
    generator = cases.generator(1)
    with torch.no_grad():
        for p in made.parameters():
            p += 0.3 * torch.randn(p.shape, generator=generator)
    return made


def tokens(*shape: int) -> Tensor:
    return torch.randint(13, shape, generator=cases.generator())


@pytest.mark.parametrize(
    ("heads", "expected"),
    [
        (8, [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]),
        (16, [2 ** (-i / 2) for i in range(1, 17)]),
        (12, [2.0**-i for i in range(1, 9)] + [2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5]),
        (1, [1 / 256]),
        (2, [1 / 16, 1 / 256]),
        (3, [1 / 16, 1 / 256, 1 / 4]),
        (6, [1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2, 1 / 8]),
    ],
)
def test_slopes_are_the_papers(heads: int, expected: list[float]) -> None:
    found = alibi_slopes(heads)
    torch.testing.assert_close(found, torch.tensor(expected).double(), rtol=1e-7, atol=0)


def test_angles_are_the_papers() -> None:
    angles = rotary_angles(torch.arange(5), 8)
    assert angles.shape == (5, 4) and angles.dtype == torch.float64
    for m in range(5):
        for i in range(4):
            assert angles[m, i].item() == pytest.approx(m * 10_000 ** (-2 * i / 8), rel=1e-14)


def by_hand(q: Tensor, k: Tensor, v: Tensor, positions: str) -> Tensor:
    """(N, heads, T, width) with every score by itself, in float64, from the papers' formulas."""
    _, heads, length, width = q.shape
    out = torch.zeros_like(v)
    for head in range(heads):
        for i in range(length):
            scores = []
            for j in range(i + 1):
                a, b = q[:, head, i], k[:, head, j]
                if positions == "rotary":
                    a, b = turned(a, i), turned(b, j)
                score = (a * b).sum(-1) / width**0.5
                if positions == "alibi":
                    score = score + alibi_slopes(heads)[head] * (j - i)
                scores.append(score)
            p = torch.stack(scores, -1).softmax(-1)
            out[:, head, i] = (p[..., None] * v[:, head, : i + 1]).sum(1)
    return out


def turned(x: Tensor, place: int) -> Tensor:
    """Equation 15 of arXiv:2104.09864: blocks of 2 x 2, one after the other."""
    width = x.shape[-1]
    matrix = torch.zeros(width, width, dtype=x.dtype)
    for i in range(width // 2):
        angle = torch.tensor(place * 10_000 ** (-2 * i / width), dtype=x.dtype)
        cos, sin = angle.cos(), angle.sin()
        block = torch.stack((torch.stack((cos, -sin)), torch.stack((sin, cos))))
        matrix[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = block
    return x @ matrix.T


@pytest.mark.parametrize("positions", POSITIONAL_ENCODINGS)
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_attention_is_the_formula(positions: str, heads: int, dtype, atol: float) -> None:
    q, k, v = cases.normal(3, 4, heads, 7, 8, dtype=torch.float64)
    given = [x.to(dtype) for x in (q, k, v)]
    # Made for rows of all buckets, of which these are not the longest.
    found = attention(*given, relative_to(scale(positions, heads), 9, given[0]))
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), by_hand(q, k, v, positions), rtol=0, atol=atol)


@pytest.mark.parametrize("length", [9, 2000])
def test_turned_queries_and_keys_know_distances_alone(length: int) -> None:
    q, k = cases.normal(2, 1, 1, 5, 8, dtype=torch.float64)
    scores = []
    for shift in (0, length):
        angles = rotary_angles(shift + torch.arange(5), 8)
        turns = torch.polar(torch.ones_like(angles), angles)
        a, b = (torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turns for x in (q, k))
        scores.append((a @ b.conj().mT).real)
    torch.testing.assert_close(scores[0], scores[1], rtol=0, atol=1e-11)
    plain = q @ k.mT
    assert (scores[0] - plain).abs().max() > 0.1
    torch.testing.assert_close(scores[0].diagonal(0, -2, -1), plain.diagonal(0, -2, -1))


@pytest.mark.parametrize("positions", POSITIONAL_ENCODINGS)
@pytest.mark.parametrize("heads", HEADS)
def test_no_position_sees_a_later_one(positions: str, heads: int) -> None:
    one, ids = model(positions, heads), tokens(3, 11)
    changed = ids.clone()
    changed[:, 6:] = (ids[:, 6:] + 1) % 13
    with torch.no_grad():
        before, after = one(ids), one(changed)
    assert before.isfinite().all()
    torch.testing.assert_close(after[:, :6], before[:, :6], rtol=0, atol=1e-5)
    assert (before[:, 6:] - after[:, 6:]).abs().amax((1, 2)).min() > 0.1


@pytest.mark.parametrize("positions", RELATIVE)
def test_starts_do_not_matter_and_rows_may_be_longer_than_the_context(positions: str) -> None:
    one, ids = model(positions), tokens(4, 30)
    with torch.no_grad():
        plain = one(ids)
        assert torch.equal(plain, one(ids, starts=torch.tensor([0, 4, 1, 9])))
        short = one(ids[:, :8])
    assert plain.isfinite().all()
    torch.testing.assert_close(plain[:, :8], short, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("positions", RELATIVE)
def test_buckets_are_rows_of_each_length(positions: str) -> None:
    one, parts = model(positions), [tokens(3, 5), tokens(2, 9)]
    with torch.no_grad():
        together = one.forward_buckets(parts).split([15, 18])
        for found, part in zip(together, parts, strict=True):
            alone = one(part).flatten(0, 1)
            torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("positions", POSITIONAL_ENCODINGS)
def test_only_without_positions_the_order_of_what_came_before_is_lost(positions: str) -> None:
    one, ids = model(positions, layers=1), tokens(1, 7)
    swapped = ids[:, [3, 1, 5, 0, 2, 4, 6]]
    with torch.no_grad():
        moved = (one(ids)[:, -1] - one(swapped)[:, -1]).abs().max()
    assert (moved < 1e-5) == (positions == "none")
    assert positions == "none" or moved > 1e-2


@pytest.mark.parametrize("positions", RELATIVE)
def test_what_encodings_share_begins_alike(positions: str) -> None:
    learned = GPT(scale("learned"), 5).state_dict()
    other = GPT(scale(positions), 5).state_dict()
    assert learned.keys() - other.keys() == {"positions"}
    assert all(torch.equal(p, learned[name]) for name, p in other.items())


@pytest.mark.parametrize("positions", RELATIVE)
def test_other_precisions(positions: str) -> None:
    one, ids = model(positions), tokens(4, 9)
    with torch.no_grad():
        exact = copy.deepcopy(one).double()(ids)
        torch.testing.assert_close(one(ids).double(), exact, rtol=1e-4, atol=1e-4)
        half = copy.deepcopy(one).bfloat16()(ids)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = one(ids)
    assert exact.dtype == torch.float64 and half.dtype == torch.bfloat16
    for found in (half, mixed):
        assert (found.double() - exact).norm() < 0.05 * exact.norm()


def test_a_models_weights_fit_its_encoding_only() -> None:
    table = GPT(scale("learned"), 5).state_dict()
    with pytest.raises(RuntimeError, match="positions"):
        GPT(scale("rotary")).load_state_dict(table)
    with pytest.raises(RuntimeError, match="positions"):
        GPT(scale("learned")).load_state_dict(GPT(scale("alibi")).state_dict())
    assert dataclasses.replace(scale("alibi"), positions="learned") == scale("learned")
