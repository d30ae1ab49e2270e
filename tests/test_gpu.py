"""What needs a GPU: skipped elsewhere, run by ``make gpu``."""

from pathlib import Path

import pytest
import torch

import geomfast as gf
from geomfast.kernels import spectra
from geomfast.kernels.backends import cuda_missing, native_module
from geomfast.kernels.gradient_gram import Factors, reference, triton
from geomfast.kernels.sgld import OP, Dynamics, LangevinState, sgld_step
from geomfast.records import load_records
from geomfast.replay import WARM_UP
from geomfast.sweep.jobs import Job
from geomfast.sweep.plan import Settings, run_specs
from geomfast.testbed.tasks import LENGTH_TASKS, TaskLevel
from geomfast.testbed.training.length_batches import LengthBatches
from geomfast.testbed.training.loop import Trainer
from geomfast.testbed.training.settings import TrainSettings
from tests import cases
from tests.kernels.test_sgld import CPU, MOVING, PLAIN, moved, state
from tests.testbed.training.test_stacked import LONGEST, TRAIN, trainer, weights
from tests.testbed.training.test_stacked import after as trained

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
BACKENDS = ("cuda", "triton", "torch")


@pytest.fixture(params=BACKENDS)
def forced(request, monkeypatch) -> str:
    monkeypatch.setenv("GEOMFAST_BACKEND", request.param)
    return request.param


def test_the_native_module_is_there_and_serves():
    assert cuda_missing() == ""
    assert spectra.OP.backend_for(torch.ones(2, 3, 4, device="cuda")) == "cuda"


@pytest.mark.parametrize("name", cases.matrices())
def test_singular_values_against_float64_svd(forced, name):
    x, expected = cases.matrices()[name], cases.reference_values(name)
    if x.shape[0] < 2:
        pytest.skip("one sample")
    values = gf.singular_values(x.cuda()).cpu()
    assert values.dtype == torch.float64 and (values >= 0).all() and (values.diff() <= 0).all()
    if forced == "cuda":
        torch.testing.assert_close(values, expected, rtol=1e-13, atol=5e-8 * expected[0].item())
    else:  # torch's eigenvalue routine may be any: what float64 allows, not one library's luck
        cases.assert_values_of_gram(values, expected, *x.shape)


@pytest.mark.parametrize("name", cases.families(2, 2))
@pytest.mark.parametrize(("n", "d"), cases.SHAPES)
def test_rankme_on_every_shape_and_family(forced, n, d, name):
    x = cases.families(n, d)[name].cuda()
    exact, tolerance = cases.exact_rankme(n, d, name), 2e-5
    if forced != "cuda":
        values = torch.linalg.svdvals(cases.families(n, d)[name].double())
        tolerance = cases.rankme_error_of_gram(values, n, d)
    assert gf.rankme(x).item() == pytest.approx(exact, rel=tolerance)
    assert gf.effective_rank(gf.singular_values(x)).item() == pytest.approx(exact, rel=tolerance)


# Sides around what fits into shared memory, whole warps, and clusters of 8, 4, 2 and 1 blocks.
@pytest.mark.parametrize("n", [1, 2, 31, 32, 33, 128, 200, 237, 238, 239, 240, 333, 512])
@pytest.mark.parametrize("batch", [1, 40, 100, 150])
def test_every_plan(n, batch):
    x = cases.normal(batch, max(n, 2), n, dtype=torch.float64)
    expected = torch.linalg.svdvals(x)
    values, ranks = gf.singular_values(x.cuda()), gf.rankme(x.cuda(), eps=1e-7)
    torch.testing.assert_close(values.cpu(), expected, rtol=1e-9, atol=1e-6)
    torch.testing.assert_close(ranks.cpu(), gf.rankme(x, eps=1e-7), rtol=1e-7, atol=0.0)


def test_many_matrices_and_the_same_bits_again():
    x = cases.normal(3000, 60, 40).cuda()
    values = gf.singular_values(x)
    expected = torch.linalg.svdvals(x.cpu().double())
    torch.testing.assert_close(values.cpu(), expected, rtol=1e-9, atol=1e-7)
    for _ in range(5):
        assert torch.equal(gf.singular_values(x), values)
    assert torch.equal(gf.singular_values(x[7]), values[7])


def test_large_sides_give_the_same_bits_again():
    x = cases.normal(24, 1000, 768).cuda()
    values = gf.singular_values(x)
    for _ in range(5):
        assert torch.equal(gf.singular_values(x), values)


@pytest.mark.parametrize("center", [False, True])
def test_a_matrix_with_nan_or_infinity_gives_nan_and_no_other_does(center):
    x = cases.normal(4, 30, 20)
    x[1, 2, 3], x[2, 3, 4] = torch.nan, torch.inf
    ranks = gf.rankme(x.cuda(), center=center).cpu()
    assert ranks.isnan().tolist() == [False, True, True, False]
    values = gf.singular_values(x.cuda()).cpu()
    assert values.isnan().all(-1).tolist() == [False, True, True, False]
    assert gf.rankme(x[0], center=center).item() == pytest.approx(ranks[0].item(), rel=1e-9)


@pytest.mark.parametrize(
    "view",
    [lambda x: x.mT, lambda x: x[..., ::2], lambda x: x[:, 3:, 1:], lambda x: x.transpose(0, 1)],
    ids=range(4),
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_any_strides_and_types(view, dtype):
    x = view(cases.normal(4, 50, 70).to(dtype))
    expected = torch.linalg.svdvals(x.double())
    torch.testing.assert_close(gf.singular_values(x.cuda()).cpu(), expected, rtol=1e-9, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")  # a prototype, torch says
@pytest.mark.parametrize("shape", [(5, 200, 128), (2, 300, 320)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_waits_for_the_gpu(shape, dtype):
    x = cases.normal(*shape).to(dtype).cuda()
    gf.rankme(x, center=True), gf.singular_values(x)  # what is compiled is compiled now
    try:
        torch.cuda.set_sync_debug_mode("error")
        values, ranks = gf.singular_values(x), gf.rankme(x, center=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = torch.linalg.svdvals(x.cpu().double())
    torch.testing.assert_close(values.cpu(), expected, rtol=1e-9, atol=1e-6)
    assert ranks.isfinite().all()


def test_runs_on_the_callers_stream():
    x = cases.normal(40, 200, 128).cuda()
    expected = gf.rankme(x)
    stream = torch.cuda.Stream()
    buffer = torch.zeros_like(x)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # on another stream the kernels would see the zeros
        buffer.copy_(x)
        ranks = gf.rankme(buffer)
    stream.synchronize()
    assert torch.equal(ranks, expected)


def test_a_captured_graph_follows_its_input():
    x = cases.normal(6, 200, 128).cuda()
    gf.rankme(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ranks = gf.rankme(x)
    for seed in (1, 2):
        x.copy_(cases.normal(6, 200, 128, seed=seed))
        graph.replay()
        assert torch.equal(ranks, gf.rankme(x))


def test_compiled():
    x = cases.normal(6, 50, 40).cuda()
    compiled = torch.compile(lambda x: gf.rankme(x * 2.0) + 1.0, fullgraph=True)
    torch.testing.assert_close(compiled(x), gf.rankme(x * 2.0) + 1.0, rtol=1e-9, atol=0.0)


def test_plan_keeps_the_paper_in_shared_memory():
    plan = native_module("_cuda").spectra_plan(0, 600, 200)
    assert plan.in_shared_memory and plan.blocks == 1
    if torch.cuda.get_device_capability()[0] >= 9:
        assert native_module("_cuda").spectra_plan(0, 600, 237).in_shared_memory
        assert native_module("_cuda").spectra_plan(0, 24, 768).blocks == 8


GRADIENT_GRAMS = {
    "ghost": lambda uses: triton.ghost(uses, 16 << 20),
    "materialised": lambda uses: triton.materialised(uses, 16 << 20, False),
    "centred": lambda uses: triton.materialised(uses, 16 << 20, True),
}


def factors(samples: int, length: int, rows: int, columns: int, dtype=torch.float32) -> Factors:
    left = cases.normal(samples, length, rows, dtype=dtype)
    right = cases.normal(samples, length, columns, dtype=dtype, seed=1)
    return Factors(left.cuda(), right.cuda(), rows)


@pytest.mark.parametrize("path", GRADIENT_GRAMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
# Large and small tiles, one and several blocks of positions and of rows, narrow and wide reads.
@pytest.mark.parametrize(
    ("samples", "length", "rows", "columns"),
    [
        (1, 1, 1, 1),
        (33, 5, 127, 130),
        (200, 4, 128, 384),
        (200, 48, 128, 128),
        (1000, 4, 128, 128),
        (300, 128, 64, 64),
        (150, 200, 24, 40),
        (1000, 1, 384, 128),
    ],
)
def test_gradient_gram_against_gradients_stored_whole(path, samples, length, rows, columns, dtype):
    uses = [factors(samples, length, rows, columns, dtype)]
    exact = reference.gram(uses, centered=path == "centred")
    found = GRADIENT_GRAMS[path](uses)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    assert (found - exact).abs().max() <= tolerance * exact.abs().max()
    assert torch.equal(found, found.mT)
    for _ in range(3):
        assert torch.equal(GRADIENT_GRAMS[path](uses), found)


def test_gradient_gram_of_a_tied_embedding():
    dense = factors(200, 16, 64, 128)
    tokens = torch.randint(64, (200, 20), generator=cases.generator()).cuda()
    uses = [dense, Factors(tokens, factors(200, 20, 1, 128).right, 64)]
    exact = reference.gram(uses, centered=False)
    for path in ("ghost", "materialised"):
        found = GRADIENT_GRAMS[path](uses)
        assert (found - exact).abs().max() <= 1e-5 * exact.abs().max()


def test_gram_of_rows_longer_than_one_launch_takes():
    x = cases.normal(3, 1_500_000).cuda()
    exact = x.double() @ x.double().mT
    assert (triton.gram_of_rows(x) - exact).abs().max() <= 1e-5 * exact.abs().max()


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")  # a prototype, torch says
@pytest.mark.parametrize("path", GRADIENT_GRAMS)
def test_gradient_gram_does_not_wait_for_the_gpu(path):
    uses = [factors(200, 16, 128, 128)]
    uses.append(Factors(uses[0].left[..., 0].long().abs(), uses[0].right, 128))
    expected = GRADIENT_GRAMS[path](uses)  # what is compiled is compiled now
    try:
        torch.cuda.set_sync_debug_mode("error")
        found = GRADIENT_GRAMS[path](uses)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(found, expected)


# One entry, parts of groups and of programs, rows that do and do not begin at 16 bytes.
STEP_SIZES = [1, 127, 128, 1000, 1025, 40_000]


def on_gpu(given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: x.cuda() for name, x in given.items()}


def test_langevin_steps_are_triton_s():
    assert OP.backend_for(torch.zeros(1, 1, device="cuda")) == "triton"


@pytest.mark.parametrize("backend", ["triton", "torch"])
@pytest.mark.parametrize("size", STEP_SIZES)
def test_noise_has_the_bits_of_the_cpu(backend, size):
    place = (2**63 + 2**31 + 1, 2**33 + 2**31 + 5, 9)
    found = OP[backend].normals(3, size, *place, torch.device("cuda"))
    assert torch.equal(found.cpu(), OP["torch"].normals(3, size, *place, CPU))


@pytest.mark.parametrize("backend", ["triton", "torch"])
@pytest.mark.parametrize("dynamics", [PLAIN, MOVING], ids=["plain", "momentum"])
@pytest.mark.parametrize("tracked", [True, False], ids=["tracked", "untracked"])
@pytest.mark.parametrize("size", STEP_SIZES)
def test_a_step_has_the_bits_of_the_cpu(backend, size, dynamics, tracked):
    given, active = state(3, size), torch.tensor([True, False, True])
    given["gradients"] *= 10.0 ** torch.linspace(-45, 0, size)  # subnormal numbers
    expected = moved("torch", given, dynamics, tracked, active=active)
    found = moved(backend, on_gpu(given), dynamics, tracked, active=active.cuda())
    for name in ("weights", "previous", "velocity"):
        assert torch.equal(found[name].cpu(), expected[name]), name
    torch.testing.assert_close(
        found["statistics"].cpu(), expected["statistics"], rtol=1e-5, atol=1e-9, equal_nan=True
    )


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")  # a prototype, torch says
def test_a_step_waits_for_nothing_and_reads_its_number_on_the_device():
    given, step = on_gpu(state(2, 1000)), 2**32 + 8
    now = torch.tensor(step, device="cuda")
    expected = moved("triton", given, MOVING, step=step)  # what is compiled is compiled now
    try:
        torch.cuda.set_sync_debug_mode("error")
        found = [moved("triton", given, MOVING, step=number) for number in (step, now)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for after in found:
        assert all(torch.equal(after[name], expected[name]) for name in expected)


def test_a_replayed_step_makes_new_noise_and_is_the_eager_one():
    given = on_gpu(state(2, 1000))
    free = Dynamics(0.01, 0.0, 0.0)  # nothing but noise
    weights, center, gradients = (given[n] for n in ("weights", "center", "gradients"))
    first = 2**32 - 2  # the upper word of the step changes on the way
    step = torch.tensor(first, device="cuda")
    expected, at = [weights.clone()], weights.clone()
    chains = LangevinState(weights, gradients, center, free, seed=3)
    sums = []
    for number in range(first, first + 5):
        sums.append(sgld_step(chains._replace(weights=at), number))
        expected.append(at.clone())
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        statistics = sgld_step(chains, step)
        step += 1
    found = [weights.clone()]
    for before in sums:
        graph.replay()
        assert torch.equal(statistics, before)
        found.append(weights.clone())
    assert int(step) == first + 5
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    kicks = torch.stack(found).diff(dim=0).flatten(1)
    assert torch.corrcoef(kicks).fill_diagonal_(0.0).abs().max() <= 5 / 2000**0.5


def test_a_run_trains_and_measures(tmp_path: Path) -> None:
    settings = Settings("joint", ("COPY",), (1,), 8, 16, None, "bf16", 4, 2, 4, 16)
    (spec,) = run_specs(settings, ("nano",), (0,))
    assert Job(spec, settings, ("rankme", "probe_accuracy"), tmp_path, "cuda", 1).run()
    records = load_records(tmp_path)
    assert records[records.measure == "probe_accuracy"]["value"].between(0.0, 1.0).all()
    assert set(records["device"]) == {"cuda:0"}
    assert set(records[records.measure == "rankme"]["backend"]) == {"cuda"}


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("batch_size", [16, 9])  # one shape of batches, and two that take turns
def test_a_replayed_training_step_is_the_eager_one(precision, batch_size, monkeypatch):
    levels = [TaskLevel("COPY", 1), TaskLevel("CMP", 1)]
    settings = TrainSettings(steps=60, batch_size=batch_size, precision=precision)
    replayed, eager = (Trainer("nano", 0, levels, settings, "cuda") for _ in range(2))
    for _ in range(20):
        replayed.train_step()
    monkeypatch.setattr("geomfast.replay.BREAK_EVEN", 10**9)  # no capture ever pays
    for _ in range(20):
        eager.train_step()
    programs = replayed._graphs._programs.values()
    assert all(getattr(program.run.run, "__name__", "") == "replay" for program in programs)
    torch.testing.assert_close(replayed.loss, eager.loss, rtol=1e-3, atol=1e-3)
    for one, other in zip(replayed.model.parameters(), eager.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    assert torch.backends.cuda.matmul.fp32_precision != "tf32"


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")  # a prototype, torch says
def test_training_does_not_wait_for_the_gpu():
    levels = [TaskLevel("COPY", 1), TaskLevel("CMP", 1)]
    one = Trainer("nano", 0, levels, TrainSettings(steps=60, batch_size=16), "cuda")
    for _ in range(WARM_UP + 3):
        one.train_step()
    try:
        torch.cuda.set_sync_debug_mode("error")
        for _ in range(5):
            one.train_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    one.check_finite()


@pytest.mark.parametrize("task", list(LENGTH_TASKS))
def test_batches_of_members_are_those_of_the_cpu(task):
    at = torch.tensor([3, 0, 2**32 - 1]), torch.tensor([1234567])
    there, here = (LengthBatches(LENGTH_TASKS[task], TRAIN, LONGEST, 8, d) for d in ("cuda", "cpu"))
    found, expected = there.draw(*(x.cuda() for x in at)), here.draw(*at)
    assert torch.equal(found.targets.cpu(), expected.targets)
    for x, y in zip(found.buckets + found.starts, expected.buckets + expected.starts, strict=True):
        assert torch.equal(x.cpu(), y)


@pytest.mark.parametrize("task", list(LENGTH_TASKS))
def test_stacked_training_is_replayed_and_is_the_cpus(task):
    """More steps than are made before the capture; a member that fails on the way."""
    there, here = trainer(task=task, device="cuda"), trainer(task=task)
    for one in (there, here):
        trained(WARM_UP + 2, one)
    program = there.programs[0]
    assert program._run != program._step
    torch.testing.assert_close(weights(there).cpu(), weights(here), rtol=1e-3, atol=1e-3)
    healthy = trainer(task=task, device="cuda")
    trained(WARM_UP + 2, healthy)
    program.model.weights[1] = torch.nan
    for one in (there, healthy):
        trained(6, one)
    assert there.failed() == {0: WARM_UP + 2} and healthy.failed() == {}
    others = [0, 2, 3]
    assert torch.equal(weights(there)[others], weights(healthy)[others])
    # Learned it has too: the members' losses went down together with the CPU's.
    trained(6, here)
    torch.testing.assert_close(healthy.losses(), here.losses(), rtol=0.05, atol=0.0)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")  # a prototype, torch says
def test_stacked_training_does_not_wait_for_the_gpu():
    one = trained(WARM_UP + 1, trainer(device="cuda"))
    try:
        torch.cuda.set_sync_debug_mode("error")
        trained(5, one)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert one.losses().isfinite().all()
