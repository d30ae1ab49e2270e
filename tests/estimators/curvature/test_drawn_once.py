"""Random numbers of many matrices in turn: drawn once, and the same as when drawn each time."""

from typing import Any

import pytest
import torch
from torch import Tensor

from geomfast.estimators.curvature import lanczos, trace
from geomfast.estimators.curvature.density import spectral_density
from geomfast.estimators.curvature.lanczos import one_start, random_start
from geomfast.estimators.curvature.trace import hutch_plus_plus

LIKE = torch.empty(0)
MATRICES = [torch.diag(torch.linspace(1.0, 2.0 + i, 40)) for i in range(3)]


def trace_of(matrix: Tensor) -> tuple[float, float]:
    found = hutch_plus_plus(lambda v: matrix @ v, LIKE, 40, 9, seed=3)
    return found.mean, found.stderr


def density_of(matrix: Tensor) -> Any:
    found = spectral_density(lambda v: matrix @ v, LIKE, 40, probes=2, iterations=5, seed=0)
    return found.nodes.tolist()


def start_of(matrix: Tensor) -> Any:
    return random_start(LIKE, len(matrix), 7).tolist()


def counted(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[int]:
    calls: list[int] = []
    original = getattr(module, name)

    def call(*arguments: Any) -> Tensor:
        calls.append(1)
        return original(*arguments)

    monkeypatch.setattr(module, name, call)
    return calls


@pytest.mark.parametrize(
    ("measure", "module", "name", "each"),
    [
        (trace_of, trace, "_bits", 1),
        (density_of, lanczos, "random_vector", 2),
        (start_of, lanczos, "random_vector", 1),
    ],
)
def test_drawn_once_and_as_before(
    monkeypatch: pytest.MonkeyPatch, measure: Any, module: Any, name: str, each: int
) -> None:
    calls = counted(monkeypatch, module, name)
    alone = [measure(matrix) for matrix in MATRICES]
    assert len(calls) == 3 * each
    calls.clear()
    with one_start():
        assert [measure(matrix) for matrix in MATRICES] == alone
    assert len(calls) == each
    # Nothing is kept behind the end.
    assert measure(MATRICES[0]) == alone[0]
    assert len(calls) == 2 * each


def test_what_does_not_fit_is_drawn_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanczos, "HELD_BYTES", 4 * 40 + 1)
    calls = counted(monkeypatch, lanczos, "random_vector")
    with one_start():
        found = [density_of(matrix) for matrix in MATRICES]
    assert len(calls) == 1 + 3  # the first start is kept, the second is not
    assert found == [density_of(matrix) for matrix in MATRICES]
