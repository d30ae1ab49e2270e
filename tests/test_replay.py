"""Repeated work: as it is on the CPU, as a CUDA graph on a GPU, with the same results."""

from __future__ import annotations

import gc
import logging
import warnings

import pytest
import torch
from torch import nn

from geomfast import cuda_capture
from geomfast.estimators.curvature.fused import FusedProducts
from geomfast.estimators.curvature.gauss_newton import GaussNewtonProducts
from geomfast.estimators.curvature.lanczos import random_vector
from geomfast.estimators.curvature.products import HessianProducts
from geomfast.estimators.llc import llc
from geomfast.kernels.sgld import normals
from geomfast.losses import next_token
from geomfast.replay import BREAK_EVEN, WARM_UP, Replay
from geomfast.testbed.models.gpt import GPT
from geomfast.testbed.models.scales import SCALES
from tests.capture_stand_in import Cuda

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
CPU = torch.device("cpu")


def test_on_the_cpu_nothing_is_kept():
    replay = Replay(CPU, "this")
    with replay.on_stream():
        assert replay.captured(print) is print
    seen = []
    for i in range(WARM_UP + 3):
        x = torch.tensor([float(i)])
        assert replay.call("double", lambda x: seen.append(1) or 2.0 * x, x).item() == 2.0 * i
    assert len(seen) == WARM_UP + 3


@pytest.fixture
def cuda(monkeypatch):
    monkeypatch.setattr(cuda_capture, "_failed", [])
    return Cuda().install(monkeypatch)


def replay_on(cuda):
    return Replay(torch.device("cuda"), "this")


def test_work_is_watched_then_captured_then_replayed(cuda):
    runs = []
    run = replay_on(cuda).captured(lambda: runs.append(cuda.mode))
    for _ in range(4):
        run()
    assert runs == [1, 0]  # watched; recorded
    assert cuda.steps == ["begin", "end", "instantiate", "replay", "replay", "replay"]
    assert cuda.mode == 0


def repeat(run, times, caplog):
    """With what is said meanwhile in caplog."""
    with caplog.at_level(logging.WARNING):
        for _ in range(times):
            run()


def test_what_waits_is_not_captured_and_is_done_whole(cuda, caplog):
    done = []

    def work():
        cuda.wait()
        done.append(1)

    run = replay_on(cuda).captured(work)
    repeat(run, 4, caplog)
    assert len(done) == 4
    assert cuda.steps == []
    assert caplog.text.count("this is not captured as a CUDA graph: it waits for the device") == 1


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_the_users_mode_and_warnings_are_left_to_the_user(cuda, mode):
    cuda.mode = mode
    run = replay_on(cuda).captured(lambda: warnings.warn("of the loss", UserWarning, stacklevel=1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    assert [str(w.message) for w in caught] == ["of the loss"]
    assert cuda.mode == mode


def fails_when_captured(cuda):
    """A wait that torch's debug mode does not see."""
    if cuda.capturing:
        cuda.wait()


def test_a_failed_capture_leaves_no_trace(cuda, caplog):
    done, state = [], cuda.generator.state

    def work():
        fails_when_captured(cuda)
        done.append(1)

    run = replay_on(cuda).captured(work)
    repeat(run, 3, caplog)
    assert len(done) == 3
    assert "this is not captured" in caplog.text and "not permitted" in caplog.text
    assert cuda.steps == ["begin", "end", "end pool", "release pool", "reset"]
    assert cuda.empty_cache()
    assert not cuda.live
    assert cuda.generator.state is state
    assert cuda.generator.draw() == 4
    # The allocator of pinned memory may still ask the graph.
    assert len(cuda_capture._failed) == 1
    later = replay_on(cuda).captured(lambda: None)
    for _ in range(2):
        later()
    assert cuda.steps[-2:] == ["instantiate", "replay"]


@pytest.mark.parametrize("broken", ["end pool", "release pool", "reset"])
def test_every_step_of_cleaning_up_may_fail(cuda, broken):
    cuda.broken = {broken}
    run = replay_on(cuda).captured(lambda: fails_when_captured(cuda))
    for _ in range(2):
        run()
    assert cuda.steps[-1] == "reset"
    assert cuda.generator.draw() == 4
    assert cuda.empty_cache() == (broken != "end pool")
    assert gc.isenabled()


@pytest.mark.parametrize("broken", ["begin", "instantiate"])
def test_a_pool_is_released_once(cuda, broken):
    """`reset` releases it where `capture_end` came so far as to end it."""
    cuda.broken = {broken}
    run = replay_on(cuda).captured(lambda: None)
    for _ in range(2):
        run()
    assert ("release pool" in cuda.steps) == (broken == "begin")
    assert not cuda.live and cuda.empty_cache()
    assert cuda.generator.draw() == 4


def test_an_error_of_the_works_own_is_raised_once_it_runs(cuda):
    runs = []

    def work():
        runs.append(1)
        if len(runs) > 1:
            raise KeyError("gone")

    run = replay_on(cuda).captured(work)
    run()
    with pytest.raises(KeyError, match="gone"):
        run()
    assert not cuda.underway and not cuda.live
    assert cuda.generator.draw() == 4


def test_an_interrupted_capture_is_cleaned_up_and_not_run(cuda):
    runs = []

    def work():
        runs.append(1)
        if cuda.capturing:
            raise KeyboardInterrupt

    run = replay_on(cuda).captured(work)
    run()
    with pytest.raises(KeyboardInterrupt):
        run()
    assert len(runs) == 2
    assert not cuda.underway and not cuda.live and cuda.generator.draw() == 4


@pytest.mark.parametrize(
    ("expected", "calls", "captured"),
    [
        (None, BREAK_EVEN, False),
        (None, BREAK_EVEN + 2, True),
        (BREAK_EVEN, BREAK_EVEN, False),
        (BREAK_EVEN + WARM_UP, WARM_UP + 1, False),
        (BREAK_EVEN + WARM_UP, WARM_UP + 2, True),
    ],
)
def test_a_function_is_captured_where_that_pays(cuda, expected, calls, captured):
    replay = replay_on(cuda)
    replay.expected = expected
    for i in range(calls):
        replay.call("", lambda x: 2.0 * x, torch.tensor([float(i)]))
    assert ("begin" in cuda.steps) == captured


def test_too_few_calls_to_come_are_not_captured(cuda):
    replay = replay_on(cuda)
    work = lambda: None  # noqa: E731
    assert replay.captured(work, BREAK_EVEN - 1) is work
    assert replay.captured(work, BREAK_EVEN) is not work


class Tied(nn.Module):
    """A weight with two names, another that the loss takes itself, and one without gradients."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.into, self.out = nn.Linear(5, 5, bias=False), nn.Linear(5, 5, bias=False)
        self.out.weight = self.into.weight
        self.scale = nn.Parameter(torch.tensor(1.3))
        self.frozen = nn.Parameter(torch.ones(5), requires_grad=False)
        with torch.no_grad():
            self.into.weight.normal_(generator=generator)

    def forward(self, x):
        return self.out(torch.tanh(self.into(x))) + self.frozen


def tied_loss(model, x):
    return (model(x) * model.scale).square().sum(1) + model.scale**4


@pytest.mark.parametrize("matrix", ["hessian", "gauss-newton"])
@pytest.mark.parametrize("params", [None, ["into.*"]])
def test_fresh_leaves_give_the_same_products_and_leave_the_model_alone(monkeypatch, matrix, params):
    model, x = Tied(), torch.randn(7, 5, generator=torch.Generator().manual_seed(1))
    loss = tied_loss if matrix == "hessian" else lambda model, x: model(x).square().sum(1)
    if matrix == "gauss-newton" and params is None:
        params = ["into.*"]
    make = HessianProducts if matrix == "hessian" else GaussNewtonProducts
    expected = make(model, loss, x, params)
    monkeypatch.setattr(Replay, "captures", property(lambda self: True))
    before = {name: id(p) for name, p in model.named_parameters(remove_duplicate=False)}
    both = [make(model, loss, x, params) for _ in range(2)]
    v = random_vector(expected.like, expected.dimension, 0)
    for products in both:
        assert not {id(p) for p in products.parameters.values()} & set(before.values())
        assert torch.equal(products(v), expected(v))
        assert torch.equal(products.gradient(), expected.gradient())
    after = {name: id(p) for name, p in model.named_parameters(remove_duplicate=False)}
    assert after == before
    assert all(p.grad is None for p in model.parameters())


def test_a_parameter_that_does_not_reach_the_loss_is_named_with_fresh_leaves_too(monkeypatch):
    monkeypatch.setattr(Replay, "captures", property(lambda self: True))
    with pytest.raises(ValueError, match="scale does not reach the loss"):
        HessianProducts(Tied(), lambda model, x: model(x).square().sum(1), torch.ones(3, 5))


@pytest.mark.gpu
@GPU
def test_a_function_is_replayed_with_new_input():
    replay = Replay(torch.device("cuda"), "this")
    replay.expected = 2 * BREAK_EVEN
    calls = []

    def double(x):
        calls.append(1)
        return 2.0 * x

    found = [replay.call("double", double, torch.full((3,), float(i)).cuda()) for i in range(9)]
    assert [x[0].item() for x in found] == [2.0 * i for i in range(9)]
    assert len(calls) == WARM_UP + 2  # watched; recorded


@pytest.mark.gpu
@GPU
def test_what_waits_for_the_device_runs_as_it_is(caplog):
    replay = Replay(torch.device("cuda"), "this")
    replay.expected = 2 * BREAK_EVEN
    mode = torch.cuda.get_sync_debug_mode()
    with caplog.at_level(logging.WARNING):
        for i in range(5):
            x = torch.full((3,), float(i)).cuda()
            assert replay.call("", lambda x: x * x.sum().item(), x)[0].item() == 3.0 * i * i
    assert "this is not captured" in caplog.text
    assert torch.cuda.get_sync_debug_mode() == mode


def failed_capture(device):
    """One that waits where torch's debug mode is not asked."""
    x = torch.ones(3, device=device)
    stream = torch.cuda.Stream(device)
    with pytest.raises(RuntimeError):
        cuda_capture.capture(stream, lambda: print(x.sum().item()))


@pytest.mark.gpu
@GPU
def test_after_a_failed_capture_random_numbers_go_on():
    device = torch.device("cuda", torch.cuda.current_device())
    torch.cuda.manual_seed(3)
    expected = torch.rand(9, device=device), nn.functional.dropout(torch.ones(99, device=device))
    earlier = torch.cuda.CUDAGraph()
    with torch.cuda.graph(earlier):
        drawn = torch.rand(3, device=device)
    torch.cuda.manual_seed(3)
    first = torch.rand(9, device=device)
    failed_capture(device)
    assert torch.equal(first, expected[0])
    assert torch.equal(nn.functional.dropout(torch.ones(99, device=device)), expected[1])
    earlier.replay()
    assert torch.isfinite(drawn).all()
    replay = Replay(device, "this")
    replay.expected = 2 * BREAK_EVEN
    for i in range(5):
        x = torch.full((3,), float(i), device=device)
        assert replay.call("", lambda x: 2 * x, x)[0].item() == 2.0 * i


@pytest.mark.gpu
@GPU
def test_after_a_failed_capture_memory_is_freed():
    device = torch.device("cuda", torch.cuda.current_device())
    failed_capture(device)
    held = torch.empty(1 << 28, device=device)
    reserved = torch.cuda.memory_reserved(device)
    del held
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved(device) <= reserved - (1 << 30)
    # Memory that is cached in pieces is given back for one piece that it has no room for.
    free = torch.cuda.mem_get_info(device)[0]
    pieces = [torch.empty(free // 8, dtype=torch.uint8, device=device) for _ in range(7)]
    del pieces
    assert torch.empty(free // 2, dtype=torch.uint8, device=device).numel() == free // 2
    torch.cuda.empty_cache()


@pytest.mark.gpu
@GPU
def test_two_products_of_one_model_are_both_replayed():
    """After a pass of the user's own, whose graph is still there."""
    tokens = torch.randint(0, 24, (16, 12), generator=torch.Generator().manual_seed(0))
    exact = HessianProducts(GPT(SCALES["nano"], 0).double(), next_token, tokens)
    model, tokens = GPT(SCALES["nano"], 0).cuda(), tokens.cuda()
    loss = next_token(model, tokens).mean()
    both = [HessianProducts(model, next_token, tokens) for _ in range(2)]
    for products in both:
        products.replay.expected = 2 * BREAK_EVEN
    for seed in range(WARM_UP + 4):
        v = random_vector(exact.like, exact.dimension, seed)
        for products in both:
            found = products(v.float().cuda()).cpu().double()
            assert (found - exact(v)).norm() <= 1e-5 * exact(v).norm()
    assert not cuda_capture._failed
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("products", [HessianProducts, FusedProducts])
def test_products_are_the_same_when_replayed(products):
    tokens = torch.randint(0, 24, (16, 12), generator=torch.Generator().manual_seed(0))
    expected = HessianProducts(GPT(SCALES["nano"], 0).double(), next_token, tokens)
    found = products(GPT(SCALES["nano"], 0).cuda(), next_token, tokens.cuda())
    found.replay.expected = 2 * BREAK_EVEN
    for seed in range(WARM_UP + 4):
        v = random_vector(expected.like, expected.dimension, seed)
        exact = expected(v)
        error = (found(v.float().cuda()).cpu().double() - exact).norm() / exact.norm()
        assert error <= 1e-5


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("stacked", [True, False])
def test_a_replayed_chain_never_repeats_its_noise(stacked):
    """Without a gradient chains add up their noise: where they are tells what it was."""

    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1000))

    steps, lr = 20, 1e-4
    found = llc(
        Flat().cuda(), lambda model, x: x[:, 0] + 0.0 * model.w.sum(), torch.ones(4, 1).cuda(),
        lr=lr, nbeta=1.0, localization=0.0, chains=3, draws=steps, burn_in=0, seed=7,
        stacked=stacked,
    )  # fmt: skip
    noise = torch.stack([normals(3, 1000, seed=7, step=step) for step in range(steps - 1)])
    walked = (lr**0.5 * noise.double().cumsum(0)).norm(dim=2).mT
    assert torch.allclose(found.distance[:, 1:], walked, rtol=1e-5)
    assert (found.distance[:, 0] == 0.0).all()


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("stacked", [True, False])
def test_chains_on_the_gpu_are_those_on_the_cpu(stacked):
    tokens = torch.randint(0, 24, (64, 12), generator=torch.Generator().manual_seed(0))
    options = {"lr": 1e-6, "chains": 3, "draws": 12, "burn_in": 4, "batch_size": 16}
    expected = llc(GPT(SCALES["nano"], 0), next_token, tokens, stacked=False, **options)
    model = GPT(SCALES["nano"], 0).cuda()
    found = llc(model, next_token, tokens.cuda(), stacked=stacked, **options)
    assert torch.allclose(found.loss_trace, expected.loss_trace, rtol=1e-4)
    assert torch.allclose(found.distance, expected.distance, rtol=1e-4)
