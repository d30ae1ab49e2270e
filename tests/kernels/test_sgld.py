"""Langevin steps and their noise: known answers, distribution, every backend to the last bit."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from geomfast.kernels.backends import interpreting_triton, missing_reason, native_module
from geomfast.kernels.sgld import OP, Dynamics, LangevinState, normals, sgld_step
from geomfast.kernels.sgld.philox import philox
from tests import cases

CPU = torch.device("cpu")
PLAIN = Dynamics(1e-3, 30.0, 100.0)
MOVING = Dynamics(1e-3, 30.0, 100.0, momentum=0.7)
# Counter, key and result of Philox4x32-10 as Random123 publishes them (kat_vectors).
KNOWN = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    (
        [0xFFFFFFFF] * 4,
        [0xFFFFFFFF] * 2,
        [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD],
    ),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]
# The counter's words are entry / 4, chain and the step; the key is the seed.
# Multiples of four, whose entries move four at a time, and others; one program and several.
SIZES = [1, 4, 5, 127, 128, 129, 132, 1000, 1001]


def _backends() -> list[str]:
    """Name of a backend, and of an instruction set where it has several."""
    fused = [f"cpu {isa}" for isa in cases.isas()]
    return [*fused, "torch", *(["triton"] if interpreting_triton() else [])]


@pytest.fixture(params=_backends())
def backend(request, monkeypatch) -> str:
    name, _, isa = request.param.partition(" ")
    monkeypatch.setenv("GEOMFAST_ISA", isa)
    return name


def state(chains: int, size: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    shape = (chains, size)
    return {
        "weights": cases.normal(*shape, seed=0).to(dtype),
        "gradients": cases.normal(*shape, seed=1).to(dtype),
        "center": cases.normal(size, seed=2).to(dtype),
        "previous": cases.normal(*shape, seed=4).to(dtype),
        "velocity": cases.normal(*shape, seed=5).to(dtype),
    }


def moved(
    backend: str,
    given: dict[str, Tensor],
    dynamics: Dynamics = PLAIN,
    tracked: bool = True,
    step: int | Tensor = 5,
    **options,
) -> dict[str, Tensor]:
    """What a step makes of a copy of the state, and the statistics."""
    after = {name: x.clone() for name, x in given.items()}
    state = LangevinState(
        after["weights"], after["gradients"], after["center"], dynamics, 11,
        after["previous"] if tracked and dynamics.momentum is None else None,
        velocity=None if dynamics.momentum is None else after["velocity"], **options,
    )  # fmt: skip
    statistics = OP[backend].step(state, step)
    return after | {"statistics": statistics}


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(counter, key, expected):
    found = philox(tuple(torch.tensor([c]) for c in counter), tuple(key))
    assert [int(x) for x in found] == expected
    for isa in cases.isas():
        assert native_module("_cpu").philox(counter, key, isa) == expected


@pytest.mark.skipif(not interpreting_triton(), reason="Triton's interpreter is off")
@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers_of_triton(counter, key, expected):
    from tests.kernels.philox_kernel import philox_kernel

    seed, words = (
        torch.tensor(np.array(x, dtype=np.uint32).view(np.int32)) for x in (key, counter)
    )
    out = torch.empty(4, dtype=torch.int32)
    philox_kernel[(1,)](seed, words, out)
    assert out.numpy().view(np.uint32).tolist() == expected


def test_the_noise_is_made_of_the_numbers_that_its_place_names(backend):
    """Entry k * 32 + j of the second group: number k of counter 32 + j."""
    seed, chain, step = 0x123456789ABCDEF, 3, 2**32 + 9
    z = OP[backend].normals(1, 256, seed, step, chain, CPU)[0]
    j = 7
    counter = tuple(torch.tensor([x]) for x in (32 + j, chain, 9, 1))
    x = philox(counter, (seed & 0xFFFFFFFF, seed >> 32))
    radius = math.sqrt(-2 * math.log(((int(x[2]) >> 1) + 0.5) / 2**31))
    assert math.hypot(z[128 + 2 * 32 + j], z[128 + 3 * 32 + j]) == pytest.approx(radius, rel=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_noise_has_the_same_bits_everywhere(backend, size):
    # Words that are negative when taken as signed.
    place = (2**63 + 2**31 + 1, 2**33 + 2**31 + 5, 9, CPU)
    expected = OP["torch"].normals(3, size, *place)
    assert torch.equal(OP[backend].normals(3, size, *place), expected)


def test_noise_is_close_to_that_of_exact_logarithms_and_angles():
    exact = OP["reference"].normals(2, 200_000, 1, 2, 3, CPU)
    found = OP["torch"].normals(2, 200_000, 1, 2, 3, CPU)
    error = (found - exact).abs()
    assert error.mean() <= 1e-7
    # Where both are near zero, u near 1 has no more digits than float32 leaves it.
    assert error[exact.abs() > 0.1].max() <= 1e-6 and error.max() <= 3e-4


@pytest.mark.parametrize("dynamics", [PLAIN, MOVING], ids=["plain", "momentum"])
@pytest.mark.parametrize("tracked", [True, False], ids=["tracked", "untracked"])
@pytest.mark.parametrize("size", SIZES)
def test_a_step_has_the_same_bits_everywhere(backend, size, dynamics, tracked):
    given = state(2, size)
    expected = moved("torch", given, dynamics, tracked)
    found = moved(backend, given, dynamics, tracked)
    for name in ("weights", "previous", "velocity"):
        assert torch.equal(found[name], expected[name]), name
    # Sums are taken in another order; terms of both signs may cancel.
    terms = (0.5 * dynamics.lr * dynamics.nbeta * given["gradients"] * given["velocity"]).abs()
    atol = 1e-9 + (1e-6 * terms.sum().item() if dynamics.momentum is not None else 0.0)
    assert torch.allclose(found["statistics"], expected["statistics"], rtol=1e-5, atol=atol)


def test_numbers_too_small_for_all_their_digits_have_the_same_bits(backend):
    given = state(1, 300)
    for name in ("weights", "gradients", "center", "velocity"):
        given[name] *= 10.0 ** torch.linspace(-47, -30, 300)
    quiet = Dynamics(1e-100, 30.0, 100.0, 0.7)  # whose noise is zero
    expected, found = (moved(on, given, quiet) for on in ("torch", backend))
    moves = expected["velocity"].abs()
    assert (moves == 0).any() and ((moves > 0) & (moves < 2.0**-126)).any()
    for name in ("weights", "velocity"):
        assert torch.equal(found[name], expected[name]), name


@pytest.mark.parametrize("dynamics", [PLAIN, MOVING], ids=["plain", "momentum"])
def test_a_step_follows_its_equation(backend, dynamics):
    given = state(2, 500)
    exact = moved("reference", {n: x.double() for n, x in given.items()}, dynamics)
    found = moved(backend, given, dynamics)
    for name in ("weights", "velocity", "statistics"):
        assert torch.allclose(found[name].double(), exact[name], rtol=1e-5, atol=1e-6), name


def test_statistics_are_of_the_weights_before_the_step():
    given = state(1, 300, torch.float64)
    w, g, c, p = (given[n].squeeze(0) for n in ("weights", "gradients", "center", "previous"))
    after = moved("torch", given)
    drift = 0.5 * PLAIN.lr * (PLAIN.nbeta * g + PLAIN.localization * (w - c))
    kick = after["weights"][0] - w + drift
    expected = [(w - c) @ (w - c), drift @ drift, (w - p) @ drift, kick @ drift]
    assert torch.allclose(after["statistics"][0], torch.stack(expected), rtol=1e-6)
    assert torch.equal(after["previous"][0], w)


def test_without_momentum_a_step_has_half_of_this_noise_and_half_of_the_last():
    """Leimkuhler and Matthews (2013): w' = w - drift + sqrt(lr) (z + z') / 2."""
    given = state(1, 300)
    dynamics = Dynamics(1e-3, 30.0, 100.0, momentum=0.0)
    half = 0.5 * math.sqrt(dynamics.lr)
    given["velocity"] = half * normals(1, 300, seed=11, step=4)
    found = moved("torch", given, dynamics)
    drift = moved("torch", given)["weights"] - given["weights"]
    drift -= 2.0 * half * normals(1, 300, seed=11, step=5)
    expected = given["weights"] + drift + given["velocity"]
    expected += half * normals(1, 300, seed=11, step=5)
    assert torch.allclose(found["weights"], expected, atol=1e-6)
    assert torch.equal(found["velocity"], half * normals(1, 300, seed=11, step=5))
    away, u = (given["weights"] - given["center"])[0], given["velocity"][0]
    of_loss = 0.5 * dynamics.lr * dynamics.nbeta * given["gradients"][0]
    sums = [away @ away, of_loss @ -drift[0], of_loss @ away, of_loss @ u]
    assert torch.allclose(found["statistics"][0].float(), torch.stack(sums), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dynamics", [PLAIN, MOVING], ids=["plain", "momentum"])
def test_a_chain_that_is_not_active_stays_and_others_do_not_notice(backend, dynamics):
    given = state(3, 200)
    given["weights"][1] = given["gradients"][1] = torch.nan
    active = torch.tensor([True, False, True])
    found = moved(backend, given, dynamics, active=active)
    for name in ("weights", "previous", "velocity"):
        assert found[name][1].equal(given[name][1]) or found[name][1].isnan().all()
    assert found["statistics"][1].isnan().all() and found["statistics"][[0, 2]].isfinite().all()
    for chain in (0, 2):
        alone = {n: x if n == "center" else x[chain : chain + 1] for n, x in given.items()}
        expected = moved(backend, alone, dynamics, first_chain=chain)
        for name in ("weights", "previous", "velocity"):
            assert torch.equal(found[name][chain], expected[name][0])


def test_chunks_of_chains_make_the_same_noise(backend):
    together = OP[backend].normals(5, 300, 3, 4, 0, CPU)
    apart = [OP[backend].normals(n, 300, 3, 4, first, CPU) for first, n in ((0, 2), (2, 3))]
    assert torch.equal(together, torch.cat(apart))


@pytest.mark.skipif(bool(missing_reason("_cpu")), reason="no C++ module")
def test_the_number_of_threads_changes_nothing():
    given = state(2, 400_000)
    before = torch.get_num_threads()
    for dynamics in (PLAIN, MOVING):
        found = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(moved("cpu", given, dynamics))
        torch.set_num_threads(before)
        for other in found[1:]:
            assert all(torch.equal(found[0][name], other[name]) for name in other)


@pytest.mark.skipif(bool(missing_reason("_cpu")), reason="no C++ module")
def test_a_hundred_million_numbers_are_normal():
    """Moments, distribution and correlation along entries, chains and steps."""
    size, steps = 1_000_000, 100
    n = size * steps
    sums = np.zeros(4)
    largest = 0.0
    before = normals(1, size, seed=1, step=10**9)[0].double().numpy()
    lagged = dict.fromkeys((1, 2, 3, 31, 32, 64, 96, 127, 128), 0.0)
    across = 0.0
    edges = scipy.stats.norm.ppf(np.arange(1, 1000) / 1000)
    counts = np.zeros(1000)
    for step in range(steps):
        z = normals(1, size, seed=1, step=step)[0].double().numpy()
        sums += [np.sum(z**k) for k in (1, 2, 3, 4)]
        largest = max(largest, np.abs(z).max())
        for lag in lagged:
            lagged[lag] += np.dot(z[lag:], z[:-lag])
        across += np.dot(z, before)
        before = z
        counts += np.bincount(np.searchsorted(edges, z), minlength=1000)
    mean, second, third, fourth = sums / n
    # Five standard errors each.
    assert abs(mean) <= 5 / math.sqrt(n)
    assert abs(second - 1) <= 5 * math.sqrt(2 / n)
    assert abs(third) <= 5 * math.sqrt(15 / n)
    assert abs(fourth - 3) <= 5 * math.sqrt(96 / n)
    assert 5.2 <= largest <= 6.7
    assert all(abs(total) <= 5 * math.sqrt(n) for total in lagged.values())
    assert abs(across) <= 5 * math.sqrt(n)
    distance = np.abs(np.cumsum(counts)[:-1] / n - np.arange(1, 1000) / 1000).max()
    assert distance <= 1.95 / math.sqrt(n)  # Kolmogorov-Smirnov at 0.1%, from 999 points
    assert scipy.stats.chisquare(counts).pvalue > 1e-4


def test_chains_seeds_and_steps_are_unrelated():
    base = dict(seed=1, step=1, first_chain=0)
    z = [normals(1, 100_000, **base)[0]]
    z += [normals(1, 100_000, **(base | change))[0] for change in (
        {"seed": 2}, {"seed": 1 + 2**32}, {"step": 2}, {"step": 1 + 2**32}, {"first_chain": 1},
    )]  # fmt: skip
    correlation = torch.corrcoef(torch.stack(z)).fill_diagonal_(0.0)
    assert correlation.abs().max() <= 5 / math.sqrt(100_000)


def test_empty_input(backend):
    assert OP[backend].normals(0, 5, 1, 1, 0, CPU).shape == (0, 5)
    assert OP[backend].normals(2, 0, 1, 1, 0, CPU).shape == (2, 0)
    assert torch.equal(moved(backend, state(2, 0))["statistics"], torch.zeros(2, 4).double())


def test_float64_weights_are_served_by_torch():
    given = state(1, 50, torch.float64)
    assert OP.backend_for(given["weights"]) == "torch"
    assert OP.available_backends(given["weights"]) == ["torch", "reference"]


def test_a_step_tensor_is_read(backend):
    given = state(1, 200)
    assert torch.equal(
        moved(backend, given, step=torch.tensor(2**32 + 8))["weights"],
        moved(backend, given, step=2**32 + 8)["weights"],
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": torch.zeros(3)}, "weights must be"),
        ({"weights": torch.zeros(1, 4, dtype=torch.bfloat16)}, "weights must be"),
        ({"gradients": torch.zeros(1, 5)}, r"gradients must be \(1, 4\)"),
        ({"center": torch.zeros(5)}, r"center must be \(4,\)"),
        ({"previous": torch.zeros(1, 8)[:, ::2]}, "previous must be contiguous"),
        ({"active": torch.zeros(1)}, "active must be"),
        ({"step": torch.tensor(1.0)}, r"step must be \(\) torch.int64"),
        ({"velocity": torch.zeros(1, 4)}, "velocity goes with momentum"),
        ({"dynamics": MOVING}, "velocity goes with momentum"),
        (
            {"dynamics": MOVING, "velocity": torch.zeros(1, 4), "previous": torch.zeros(1, 4)},
            "does not go with momentum",
        ),
    ],
)
def test_bad_input(change, message):
    given = {"weights": torch.zeros(1, 4), "gradients": torch.zeros(1, 4), "center": torch.zeros(4)}
    given |= {"step": 0, "dynamics": PLAIN, **change}
    step = given.pop("step")
    with pytest.raises(ValueError, match=message):
        sgld_step(LangevinState(**given, seed=0), step)


def test_what_runs_can_be_forced(monkeypatch):
    monkeypatch.setitem(os.environ, "GEOMFAST_BACKEND", "torch")
    assert OP.backend_for(torch.zeros(1, 1)) == "torch"
