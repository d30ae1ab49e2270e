"""Spectra inside torch.compile: operators that the compiler sees and does not look into."""

import subprocess
import sys

import pytest
import torch

import geomfast as gf
from tests import cases

# The compiler's own deprecated calls, which change with torch's version.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_compiled_function_without_a_graph_break(backend):
    def ranks(x: torch.Tensor) -> torch.Tensor:
        return gf.rankme(torch.tanh(x) * 2.0, center=True) + gf.rankme(x, eps=1e-5)

    x = cases.normal(3, 20, 30)
    compiled = torch.compile(ranks, backend=backend, fullgraph=True)
    torch.testing.assert_close(compiled(x), ranks(x), rtol=1e-6, atol=0.0)
    other = cases.normal(2, 11, 7)
    torch.testing.assert_close(compiled(other), ranks(other), rtol=1e-6, atol=0.0)


def test_compiled_before_any_other_use():
    program = (
        "import torch, geomfast as gf\n"
        "f = torch.compile(lambda x: gf.rankme(x) + 1, backend='eager', fullgraph=True)\n"
        "assert abs(f(torch.eye(3)).item() - 4.0) < 1e-9\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_compiled_singular_values_of_a_leaf_that_requires_gradients():
    x = cases.normal(4, 9, 6).requires_grad_()
    values = torch.compile(gf.singular_values, backend="aot_eager", fullgraph=True)(x)
    assert torch.equal(values, gf.singular_values(x))
    assert not values.requires_grad


def test_compiled_training_step_with_a_measurement_in_it():
    layer = torch.nn.Linear(6, 6)

    @torch.compile(backend="aot_eager", fullgraph=True)
    def step(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = layer(x)
        return hidden.square().mean(), gf.rankme(hidden)

    loss, rank = step(cases.normal(9, 6))
    loss.backward()
    assert layer.weight.grad is not None and 1.0 <= rank.item() <= 6.0


def test_bad_input_is_still_an_error_when_compiled():
    compiled = torch.compile(gf.rankme, backend="eager")
    with pytest.raises(ValueError, match=r"x\[1, 2\] is nan"):
        x = torch.ones(4, 3)
        x[1, 2] = torch.nan
        compiled(x)
    with pytest.raises(ValueError, match="N = 1"):
        compiled(torch.ones(1, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 5), (0, 4, 6), (2, 2, 6, 4)])
def test_opcheck(shape, dtype):
    assert gf.rankme  # first use registers the operators
    x = cases.normal(*shape).to(dtype)
    torch.library.opcheck(torch.ops.geomfast.singular_values.default, (x,))
    torch.library.opcheck(torch.ops.geomfast.singular_values.default, (x.mT,))
    torch.library.opcheck(torch.ops.geomfast.rankme.default, (x, True, 0.0))
    torch.library.opcheck(torch.ops.geomfast.rankme.default, (x, False, 1e-7))
