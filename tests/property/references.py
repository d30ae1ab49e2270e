"""Float64 values of a draw, one sample at a time, by nothing but torch's first derivatives.

Products of the Hessian are differences of gradients; where the double backward of a draw can be
trusted, that of every sample by itself as well, which knows more digits.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map

from tests.property.draws import Draw, drawn


@contextmanager
def quiet() -> Iterator[None]:
    with (
        torch.random.fork_rng(devices=[]),
        warnings.catch_warnings(),
        sdpa_kernel(SDPBackend.MATH),
    ):
        warnings.simplefilter("ignore")
        yield


class Reference:
    """The draw again, in float64 (or as it is).

    Attributes:
        parameters: by name, those that require gradients.
        losses: (N,) of every sample alone.
        gradients: by name (N, entries), zeros where a sample does not use the parameter.
    """

    def __init__(self, draw: Draw, widen: bool = True):
        again = drawn(draw.seed)
        self.model = again.model.double() if widen else again.model
        self.loss_fn, self.samples = again.loss_fn, draw.samples
        widened = lambda x: x.double() if widen and x.is_floating_point() else x  # noqa: E731
        self.batch = tree_map(widened, again.batch)
        self.parameters = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        losses, rows = [], []
        with quiet():
            for i in range(self.samples):
                loss = self.loss_alone(i)
                losses.append(loss.detach())
                rows.append(self._gradient(loss))
        self.losses = torch.stack(losses)
        self.gradients = {
            name: torch.stack([row[j].flatten() for row in rows])
            for j, name in enumerate(self.parameters)
        }

    def loss_alone(self, i: int) -> Tensor:
        alone = tree_map(lambda x: x[i : i + 1], self.batch)
        return self.loss_fn(self.model, alone)[0]

    def losses_together(self) -> Tensor:
        with quiet():
            return self.loss_fn(self.model, self.batch).detach()

    def reached(self) -> set[str]:
        """Names of the parameters that reach the loss of the whole batch."""
        with quiet():
            loss = self.loss_fn(self.model, self.batch).sum()
            found = torch.autograd.grad(loss, list(self.parameters.values()), allow_unused=True)
        return {n for n, g in zip(self.parameters, found, strict=True) if g is not None}

    def leave_out(self, names: list[str]) -> None:
        """Of all that follows."""
        for name in names:
            del self.parameters[name], self.gradients[name]

    def grams(self) -> dict[str, Tensor]:
        return {name: (g @ g.T).double() for name, g in self.gradients.items()}

    def product_by_differences(self, v: Tensor, step: float = 1e-3) -> Tensor:
        """H v of the mean loss from gradients of the batch at four points along v.

        Without the rows of tables that are padding: torch calls their gradient zero whatever they
        do to the loss.
        """
        v = v * self._not_padding()
        points = {-2: 1 / 12, -1: -2 / 3, 1: 2 / 3, 2: -1 / 12}
        total = torch.zeros_like(v)
        with quiet():
            for k, weight in points.items():
                total += weight * self._mean_gradient_at(v * (step * k))
        return total / step

    def product_one_by_one(self, v: Tensor, name: str = "") -> Tensor:
        """H v of the mean loss, from double backward passes of single samples.

        With a name, of that parameter's block alone.
        """
        parameters = {name: self.parameters[name]} if name else self.parameters
        total = torch.zeros_like(v)
        with quiet():
            for i in range(self.samples):
                total += self._double_backward(self.loss_alone(i), v, parameters)
        return total / self.samples

    def trace(self, name: str) -> tuple[float, float]:
        """Of one parameter's block, and the sum of the absolute values that it is made of."""
        units = torch.eye(self.parameters[name].numel(), dtype=torch.float64)
        entries = [float(self.product_one_by_one(unit, name) @ unit) for unit in units]
        return sum(entries), sum(map(abs, entries))

    @staticmethod
    def _double_backward(loss: Tensor, v: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        leaves = list(parameters.values())
        found = torch.autograd.grad(loss, leaves, create_graph=True, allow_unused=True)
        along = torch.zeros((), dtype=v.dtype)
        for g, part in zip(found, _shaped(v, leaves), strict=True):
            if g is not None and g.requires_grad:
                along = along + (g.to_dense() * part).sum()
        if not along.requires_grad:
            return torch.zeros_like(v)
        return _flat(torch.autograd.grad(along, leaves, allow_unused=True), leaves)

    def _not_padding(self) -> Tensor:
        counts = {name: torch.ones_like(p) for name, p in self.parameters.items()}
        for name, module in self.model.named_modules():
            if (
                isinstance(module, (nn.Embedding, nn.EmbeddingBag))
                and module.padding_idx is not None
            ):
                counts.get(f"{name}.weight", torch.ones_like(module.weight))[module.padding_idx] = 0
        return torch.cat([counts[name].flatten() for name in self.parameters])

    def _mean_gradient_at(self, shift: Tensor) -> Tensor:
        parameters = list(self.parameters.values())
        kept = [p.detach().clone() for p in parameters]
        with torch.no_grad():
            for p, part in zip(parameters, _shaped(shift, parameters), strict=True):
                p += part
        try:
            loss = self.loss_fn(self.model, self.batch).mean()
            return _flat(self._gradient(loss), parameters)
        finally:
            with torch.no_grad():
                for p, old in zip(parameters, kept, strict=True):
                    p.copy_(old)

    def _gradient(self, loss: Tensor) -> list[Tensor]:
        parameters = list(self.parameters.values())
        if not loss.requires_grad:
            return [torch.zeros_like(p) for p in parameters]
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        return [
            torch.zeros_like(p) if g is None else g.to_dense()
            for g, p in zip(found, parameters, strict=True)
        ]


def _shaped(v: Tensor, like: list[Tensor]) -> list[Tensor]:
    parts = v.split([p.numel() for p in like])
    return [part.view_as(p) for part, p in zip(parts, like, strict=True)]


def _flat(found: Sequence[Tensor | None], like: list[Tensor]) -> Tensor:
    return torch.cat(
        [
            torch.zeros_like(p).flatten() if g is None else g.to_dense().flatten()
            for g, p in zip(found, like, strict=True)
        ]
    )


def mode_and_state(model: nn.Module) -> dict[str, Any]:
    """What no measure may change, to compare."""
    return {
        "parameters and buffers": {k: v.detach().clone() for k, v in model.state_dict().items()},
        "modes": [m.training for m in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "gradients": [p.grad is None for p in model.parameters()],
        "random state": torch.get_rng_state(),
    }


def same_state(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_state(a[k], b[k]) for k in a)
    return torch.equal(a, b) if isinstance(a, Tensor) else a == b
