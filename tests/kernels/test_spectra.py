"""Every backend and instruction set against float64 SVD."""

import contextlib
import functools
import importlib

import pytest
import torch

from geomfast.kernels.backends import interpreting_triton, missing_reason, native_module
from geomfast.kernels.spectra import OP, cuda, eager, gram_eigenvalues, singular_values
from tests import cases

ISAS = ("avx512", "avx2", "portable")


def _cannot_run(isa: str) -> bool:
    return bool(missing_reason("_cpu")) or isa not in native_module("_cpu").isas()


def _path(isa: str):
    skip = pytest.mark.skipif(_cannot_run(isa), reason=f"{isa} does not run on this machine")
    return pytest.param(("cpu", isa), id=f"cpu-{isa}", marks=skip)


PATHS = [
    pytest.param(("reference", ""), id="reference"),
    pytest.param(("torch", ""), id="torch"),
    pytest.param(
        ("triton", ""),
        id="triton",
        marks=pytest.mark.skipif(not interpreting_triton(), reason="Triton's interpreter is off"),
    ),
    *(_path(isa) for isa in ISAS),
]
NATIVE = [_path(isa) for isa in ISAS]


@pytest.fixture
def run(request, monkeypatch):
    """`singular_values` forced onto one backend and instruction set."""
    backend, isa = request.param
    monkeypatch.setenv("GEOMFAST_BACKEND", backend)
    monkeypatch.setenv("GEOMFAST_ISA", isa)
    return singular_values


@pytest.fixture
def threads():
    """Sets the number of threads for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def rankme(values: torch.Tensor) -> torch.Tensor:
    """Written apart from the package's own."""
    p = values / values.max().clamp_min(5e-324)
    p = p / p.sum().clamp_min(1.0)
    return torch.exp(-torch.xlogy(p, p).sum()) if values.max() > 0 else torch.zeros(())


@pytest.mark.parametrize("name", cases.matrices())
@pytest.mark.parametrize("run", PATHS, indirect=True)
def test_against_float64_svd(run, name):
    x, expected = cases.matrices()[name], cases.reference_values(name)
    values = run(x)
    assert values.dtype == torch.float64
    assert values.shape == expected.shape
    assert (values >= 0).all() and (values.diff() <= 0).all()
    # The Gram matrix knows squares to rounding: values to the square root of it, large ones fully.
    torch.testing.assert_close(values, expected, rtol=1e-13, atol=5e-8 * expected[0].item())
    torch.testing.assert_close(values[0], expected[0], rtol=1e-13, atol=0.0)
    well_conditioned = expected[-1] >= 1e-5 * expected[0]
    error = (rankme(values) - rankme(expected)).abs() / rankme(expected).clamp_min(1.0)
    assert error <= (1e-7 if well_conditioned else 2e-5)


@pytest.mark.parametrize("name", cases.families(2, 2))
@pytest.mark.parametrize(("n", "d"), cases.SHAPES)
@pytest.mark.parametrize("run", PATHS, indirect=True)
def test_rankme_on_every_shape_and_family(run, n, d, name, monkeypatch):
    if interpreting_triton():  # whose time goes by operations, not by their size
        gram_kernel = importlib.import_module("geomfast.kernels.spectra.gram_kernel")
        monkeypatch.setattr(gram_kernel, "_BLOCK_K", 512)
    value = rankme(run(cases.families(n, d)[name])).item()
    assert value == pytest.approx(cases.exact_rankme(n, d, name), rel=2e-5)


@pytest.mark.parametrize("run", NATIVE, indirect=True)
@pytest.mark.parametrize("shape", [(37, 21, 30), (5, 64, 20), (1, 50, 50), (40, 3, 3)])
def test_bits_depend_on_neither_threads_nor_company(run, shape, threads):
    x = cases.normal(*shape)
    x[shape[0] // 2] = 0.0
    x[0, :, 1:] = 0.0
    threads(1)
    values = run(x)
    threads(2)
    assert torch.equal(run(x), values)
    assert torch.equal(run(x.flip(0)).flip(0), values)
    for i in range(0, shape[0], 7):
        assert torch.equal(run(x[i]), values[i])


@functools.cache
def _batch() -> torch.Tensor:
    return cases.normal(3, 2, 13, 9, dtype=torch.float64)


@pytest.mark.parametrize("run", PATHS, indirect=True)
@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.mT,
        lambda x: x.transpose(0, 1),
        lambda x: x[..., ::2],
        lambda x: x[..., ::3, :],
        lambda x: x[:, :1],
        lambda x: x[1:, 1, 2:, 3:],
        lambda x: x[..., :1].expand(3, 2, 13, 9),
        lambda x: x[..., :1, :].expand(3, 2, 13, 9),
        lambda x: x[:1].expand(4, 2, 13, 9),
        lambda x: x.permute(2, 3, 0, 1),
        lambda x: x[::2].float(),
    ],
    ids=range(11),
)
def test_any_strides(run, view):
    x = view(_batch())
    before = x.clone()
    expected = torch.linalg.svdvals(x.double().contiguous())
    torch.testing.assert_close(run(x), expected, rtol=1e-10, atol=1e-6)
    assert torch.equal(x, before)


@pytest.mark.parametrize("run", PATHS, indirect=True)
@pytest.mark.parametrize("shape", [(0, 5, 3), (2, 0, 5, 3)])
def test_empty_batch(run, shape):
    values = run(torch.empty(shape))
    assert values.shape == (*shape[:-2], 3)
    assert values.dtype == torch.float64


@pytest.mark.parametrize("run", PATHS, indirect=True)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_read_exactly(run, dtype):
    x = cases.normal(4, 20, 30).to(dtype)
    torch.testing.assert_close(run(x), torch.linalg.svdvals(x.double()), rtol=1e-11, atol=0.0)


@pytest.mark.parametrize("run", PATHS, indirect=True)
@pytest.mark.filterwarnings("ignore:invalid value encountered in matmul")  # Triton's interpreter
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_not_finite_names_the_entry(run, bad, dtype):
    x = cases.normal(3, 4, 6, 5).to(dtype)
    x[1, 2, 3, 4] = bad
    x[2] = bad
    with pytest.raises(ValueError, match=rf"\(3, 4, 6, 5\).*x\[1, 2, 3, 4\] is {bad}"):
        run(x)
    with pytest.raises(ValueError, match=r"x\[1, 2, 4, 3\]"):
        run(x.mT)


@pytest.mark.parametrize("run", PATHS, indirect=True)
def test_largest_float64_is_not_mistaken_for_infinity(run):
    largest = torch.finfo(torch.float64).max
    x = torch.tensor([[largest, 0.0], [0.0, largest / 2]], dtype=torch.float64)
    assert run(x).tolist() == [largest, largest / 2]


def test_detached():
    x = cases.normal(4, 5).requires_grad_()
    assert not singular_values(x).requires_grad


def test_unknown_instruction_set(monkeypatch):
    if missing_reason("_cpu"):
        pytest.skip("no native module")
    monkeypatch.setenv("GEOMFAST_ISA", "mmx")
    with pytest.raises(ValueError, match="'mmx'"):
        singular_values(torch.eye(3))


def test_huge_matrices_go_to_torch():
    assert OP.backend_for(torch.empty(1, 1).expand(3000, 3000)) == "torch"


def test_available_backends():
    native = [] if missing_reason("_cpu") else ["cpu"]
    interpreted = ["triton"] if interpreting_triton() else []
    assert OP.available_backends(torch.eye(3)) == [*interpreted, *native, "torch", "reference"]
    assert OP.available_backends(torch.empty(3, 3, device="meta")) == ["torch", "reference"]


@pytest.mark.parametrize("run", NATIVE, indirect=True)
def test_multiple_eigenvalues_converge(run):
    # Off-diagonals that hover just above rounding: about one such matrix in a thousand has one.
    left, right = (
        torch.linalg.qr(cases.normal(10000, 13, 13, dtype=torch.float64, seed=seed))[0]
        for seed in (1, 2)
    )
    spectrum = torch.randint(0, 4, (10000, 13), generator=cases.generator(3)).double()
    values = run(left * spectrum[:, None] @ right)
    expected = spectrum.sort(-1, descending=True).values
    torch.testing.assert_close(values, expected, rtol=0.0, atol=2e-7)


GRAMS = [(n, scale) for n in (1, 2, 200, 500) for scale in (1e-200, 1.0, 1e200)]


def gram(n: int, scale: float) -> torch.Tensor:
    """Of rank 90 at most."""
    rows = torch.randn(n, 90, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    return rows @ rows.mT * scale


def require_close(found: torch.Tensor, x: torch.Tensor) -> None:
    """To what rounding in x leaves, in float64: the trace's share."""
    expected = torch.linalg.eigvalsh(x)
    bound = 8 * torch.finfo(torch.float64).eps * x.trace().item()
    assert ((found - expected).abs() <= bound).all()
    assert (found.diff() >= 0).all()


def test_eigenvalues_of_a_gram_matrix_on_the_cpu_are_lapacks():
    x = gram(200, 1.0)
    assert torch.equal(gram_eigenvalues(x), torch.linalg.eigvalsh(x))


@pytest.mark.parametrize(("n", "scale"), GRAMS)
def test_eigenvalues_around_the_gpu_kernel(monkeypatch, n, scale):
    """With the kernel's place taken by torch: range, order, and an input that stays as it was."""

    class Native:
        def spectra_plan(self, device, batch, n):
            return None

    def queue(plan, given, eps):
        assert given.shape == (1, n, n) and given.is_contiguous() and given.abs().max() <= 2.0
        return eager.values_of_gram(given), given.fill_(torch.nan)

    monkeypatch.setattr(cuda, "native_module", lambda name: Native())
    monkeypatch.setattr(cuda, "_queue", queue)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    x = gram(n, scale)
    before = x.clone()
    require_close(cuda.gram_eigenvalues(x), x)
    assert torch.equal(x, before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("n", "scale"), GRAMS)
def test_eigenvalues_of_a_gram_matrix_on_the_gpu(n, scale):
    x = gram(n, scale)
    if OP.backend_for(x.cuda()) != "cuda":
        pytest.skip("the kernels for CUDA are not built")
    require_close(gram_eigenvalues(x.cuda()).cpu(), x)
