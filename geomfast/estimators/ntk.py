"""Empirical neural tangent kernel of a model with several outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from geomfast.estimators.arguments import check_flag, check_model
from geomfast.estimators.batches import (
    Batches,
    count,
    index_batch,
    one_batch,
    some_of,
    warn_of_order,
)
from geomfast.estimators.calls import measurable
from geomfast.estimators.gradients import gradient_gram

OutputFunction = Callable[[nn.Module, Any], Tensor]
Aggregate = Literal["trace", "sum"]
_AGGREGATES = (None, "trace", "sum")


def ntk(
    model: nn.Module,
    output_fn: OutputFunction,
    batch: Any,
    *,
    params: Iterable[str] | None = None,
    aggregate: Aggregate | None = None,
    check: bool = True,
) -> Tensor:
    r"""Empirical neural tangent kernel $\Theta^{ab}_{ij} = \langle \nabla f_a(x_i), \nabla f_b(x_j)
    \rangle$, over all parameters chosen, exactly.

    Jacot et al. (2018, arXiv:1806.07572) at the weights as they are. From the factors of
    per-sample gradients, as `gradient_gram`: N C x P numbers are never stored. For all pairs of
    outputs a forward and a backward pass over every sample C times at once; for the trace one after
    the other; for the sum a single one.

    Args:
        model: any module. Its mode, gradients and parameters stay as they are.
        output_fn: `output_fn(model, batch) -> (N, C)`, C differentiable outputs of every sample.
        batch: any nest of tensors with N >= 2 samples along their first dimension; an iterable of
            batches for all of its samples. For the kernel of two sets take both as one, and the
            block of the one by the other.
        params: names of parameters, with shell wildcards; those that begin with "!" are left out.
            None for all that require gradients.
        aggregate: None for all pairs of outputs; "trace" for $\sum_a \Theta^{aa}$; "sum" for
            $\sum_{ab} \Theta^{ab}$, the kernel of the sum of the outputs, which divided by C is the
            pseudo-kernel of Mohamadi et al. (2023, arXiv:2206.12543).
        check: whether to test on some of the samples that outputs do not depend on the others.

    Returns:
        (N, N, C, C) float64, entry [i, j, a, b]; (N, N) for an aggregate. In squared units of the
        outputs per squared unit of the parameters; on the outputs' device.

    Raises:
        TypeError: an argument of another kind, named; outputs that are no floating-point tensor.
        ValueError: outputs of another shape than (N, C); an unknown aggregate; others as
            `gradient_gram`, where losses stand for outputs.

    Examples:
        >>> import geomfast as gf
        >>> net, x = torch.nn.Linear(2, 3, bias=False), torch.tensor([[3.0, 4.0], [0.0, 2.0]])
        >>> kernel = gf.ntk(net, lambda m, b: m(b), x)  # of W x: x_i . x_j for a = b, else 0
        >>> kernel.shape, kernel[0, 1].diagonal()
        (torch.Size([2, 2, 3, 3]), tensor([8., 8., 8.], dtype=torch.float64))
    """
    check_model(model)
    check_flag(check=check)
    if isinstance(output_fn, type) or not callable(output_fn):
        raise TypeError(
            "output_fn must be a function, output_fn(model, batch) -> (N, C), not "
            f"{output_fn!r:.60}"
        )
    if aggregate not in _AGGREGATES:
        raise ValueError(f"aggregate must be None, 'trace' or 'sum', not {aggregate!r:.60}")
    if isinstance(params, int):
        raise TypeError(f"params must be names of parameters, with shell wildcards, not {params!r}")
    names = list(params) if isinstance(params, Iterator) else params  # read for every output
    warn_of_order({"batch": batch})
    batch = one_batch(batch)
    samples = count(batch)
    outputs = _outputs(model, output_fn, batch)

    def gram(output: OutputFunction, batch: Any) -> Tensor:
        return gradient_gram(model, output, batch, params=names, check=check)

    if aggregate == "sum":
        return gram(lambda m, b: _checked(output_fn(m, b), count(b, 1), outputs).sum(1), batch)
    if aggregate == "trace":
        total: Tensor | None = None
        for c in range(outputs):
            one = gram(
                lambda m, b, c=c: _checked(output_fn(m, b), count(b, 1), outputs)[:, c], batch
            )
            total = one if total is None else total + one
        assert total is not None  # there is an output
        return total

    # Every sample once for each output, with the output's number.
    numbers = torch.arange(samples * outputs, device="cpu")
    together = index_batch(batch, numbers // outputs), numbers % outputs

    def chosen(model: nn.Module, batch: Any) -> Tensor:
        batch, which = batch
        found = _checked(output_fn(model, batch), len(which), outputs)
        return found.gather(1, which.to(found.device)[:, None])[:, 0]

    whole = gram(chosen, together).view(samples, outputs, samples, outputs)
    return whole.permute(0, 2, 1, 3).contiguous()


def _outputs(model: nn.Module, output_fn: OutputFunction, batch: Any) -> int:
    """C, of a few samples."""
    which, few = some_of(batch, 2)
    with measurable(model, output_fn, Batches([few])) as (model, called, (few,)), torch.no_grad():
        found = called(model, few)
    samples = len(which)
    if isinstance(found, Tensor) and found.dim() == 2 and found.shape[1] == 0:
        raise ValueError(f"output_fn must return shape ({samples}, C) with C >= 1, not C = 0")
    return _checked(found, samples, None).shape[1]


def _checked(found: Any, samples: int, outputs: int | None) -> Tensor:
    """(N, C) outputs."""
    if not isinstance(found, Tensor) or not found.is_floating_point():
        kind = found.dtype if isinstance(found, Tensor) else type(found).__name__
        raise TypeError(f"output_fn must return a floating-point tensor (N, C), not {kind}")
    if found.dim() != 2 or found.shape != (samples, outputs or found.shape[1]):
        expected = f"({samples}, {outputs or 'C'})"
        raise ValueError(f"output_fn must return shape {expected}, not {tuple(found.shape)}")
    return found
