"""Products of a model's Hessian with vectors, by double backward through a kept graph.

Pearlmutter (1994), "Fast exact multiplication by the Hessian": H v is the gradient of <g, v>. The
graph of g is built once; a product costs what two further backward passes do.
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from geomfast.estimators.batches import Batches, batches_of, count, some_of
from geomfast.estimators.checks import (
    FEW,
    LossFunction,
    check_sample_independence,
    checked_losses,
    select_parameters,
    unused_error,
)
from geomfast.estimators.curvature.lanczos import random_vector
from geomfast.estimators.curvature.twice.mode import CheapSecondDerivatives
from geomfast.estimators.graph import (
    custom_functions,
    once_differentiable_functions,
    uses_in_graph,
)
from geomfast.estimators.sampling.gradients import LossModule
from geomfast.estimators.stopping import check_stop
from geomfast.replay import Replay

#: Bytes of graphs that are kept between products; what exceeds it is computed again each time.
KEPT_BYTES = 4 << 30
#: Relative differences of a few samples' products that are rounding.
_AGREE = {torch.float32: 1e-3, torch.float64: 1e-6}


@contextlib.contextmanager
def twice_differentiable():
    """Inside, attention is computed by what can be differentiated twice, with gradients on.

    Flash, memory-efficient and fused CPU attention have no second derivative (PyTorch issues
    116350 and 128971).
    """
    with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
        yield


class DataProducts(abc.ABC):
    """A symmetric matrix made of the mean loss over data, known by its products.

    Args:
        model, loss_fn: as everywhere in geomfast.
        data: one batch, or an iterable of batches that count by their samples.
        params: names of parameters, with shell wildcards; None for all that require gradients.
        kept_bytes: of what is kept between products.

    Attributes:
        parameters: by name, those chosen.
        sizes: their entries, in the order of a vector.
        dimension: P, the sum of the sizes.
        replay: what repeats products on a GPU.
        found: results that functions called in turn share, by all that they depend on.
        like: a tensor of the vectors' type and device.

    Raises:
        ValueError: as `geomfast.hessian_top_eigenvalues`.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFunction,
        data: Any,
        params: Iterable[str] | None = None,
        *,
        kept_bytes: int = KEPT_BYTES,
    ):
        check_sample_independence(model)
        self.model, self.loss_fn = model, loss_fn
        self.parameters, _ = select_parameters(model, params)
        self.batches = batches_of(data)
        self.counts = [count(batch, least=1) for batch in self.batches]
        #: Losses of the first batch, once computed.
        self.first_losses: Tensor | None = None
        #: Operations whose derivatives are not torch's own.
        self.custom: set[str] = set()
        #: What makes a graph for many products, while it does.
        self.making: CheapSecondDerivatives | None = None
        #: Whether such graphs are made, rather than torch's own.
        self.cheap = True
        self.found: dict[Hashable, Any] = {}
        self.sizes = {name: p.numel() for name, p in self.parameters.items()}
        self.dimension = sum(self.sizes.values())
        if self.dimension == 0:
            raise ValueError(f"the parameters {', '.join(self.sizes)} have no entries")
        first = next(iter(self.parameters.values()))
        self.replay = Replay(first.device, "a product with the Hessian")
        self.like = first.detach().new_empty(
            0, dtype=torch.promote_types(first.dtype, torch.float32)
        )
        self._build(kept_bytes)

    @abc.abstractmethod
    def _build(self, kept_bytes: int) -> None:
        """Computes what all products share."""

    @abc.abstractmethod
    def __call__(self, v: Tensor) -> Tensor:
        """(P,) -> (P,) of the type of `like`."""

    @abc.abstractmethod
    def gradient(self) -> Tensor:
        """(P,) of the type of `like`: the gradient of the mean loss."""

    @abc.abstractmethod
    def where_not_finite(self, v: Tensor) -> str:
        """Which batch's product with v is not finite, for a message."""

    def loss_of(self, i: int, *, differentiable: bool = True, kept: bool = False) -> Tensor:
        """Batch i's share of the mean loss; kept says that its graph serves many products."""
        check_stop()
        with twice_differentiable() if differentiable else torch.no_grad():
            if kept and differentiable and self.cheap:
                with self._cheap() as made:
                    loss = self._share(i, differentiable)
                if not made.followed:
                    return loss
            return self._share(i, differentiable)

    @contextlib.contextmanager
    def _cheap(self) -> Iterator[CheapSecondDerivatives]:
        self.making = CheapSecondDerivatives()
        try:
            with self.making as made:
                yield made
        finally:
            self.making = None

    def _share(self, i: int, differentiable: bool) -> Tensor:
        return self.losses_of(i, differentiable=differentiable).sum() / sum(self.counts)

    def losses_of(self, i: int, *, differentiable: bool = True) -> Tensor:
        """(N,) losses of batch i, each of them finite."""
        losses = checked_losses(self._called(self.batches[i]), self.counts[i], differentiable)
        if i == 0 and self.first_losses is None:
            self.first_losses = losses.detach()
        bad = ~torch.isfinite(losses.detach())
        if bad.any():
            sample = int(bad.nonzero()[0])
            raise ValueError(f"the loss of sample {sample} of batch {i} is not finite")
        return losses

    def _called(self, batch: Any) -> Any:
        return self.loss_fn(self.model, batch)


class HessianProducts(DataProducts):
    """Products of the Hessian of the mean loss over data, of any model.

    Batches whose graphs take more than ``kept_bytes`` are differentiated anew each time.
    """

    def _build(self, kept_bytes: int) -> None:
        self._module = LossModule(self.model, self.loss_fn)
        # By name in that module, what the model is called with in place of its own parameters.
        # Those may have nodes in graphs of the user's, made on the stream of the user's: a capture
        # in which such a node takes part fails. The entries are the model's.
        self._leaves: dict[str, Tensor] = {}
        if self.replay.captures:
            with self.replay.on_stream():
                leaves = {
                    name: p.detach().requires_grad_()
                    for name, p in self.model.named_parameters()
                    if p.requires_grad
                }
            self.parameters = {name: leaves[name] for name in self.parameters}
            self._leaves = {f"model.{name}": leaf for name, leaf in leaves.items()}
        with self.replay.on_stream():
            self.cheap = self._agree()
            fitting = self._fitting(kept_bytes)
            self._kept = [self._prepared(i) for i in range(fitting)]
        self._again = range(fitting, len(self.batches))
        unused = set(self.parameters).difference(*(self._used(one) for one in self._kept))
        for i in self._again:  # whatever is wrong with a batch is said now
            loss = self.loss_of(i, differentiable=bool(unused))
            if unused:
                uses = uses_in_graph(loss, {name: self.parameters[name] for name in unused})
                unused -= {name for name, number in uses.items() if number}
        if unused:
            raise unused_error(name for name in self.parameters if name in unused)

    def _agree(self) -> bool:
        """Whether cheap graphs give torch's own product with a random vector, of a few samples."""
        batches, counts = self.batches, self.counts
        try:
            _, few = some_of(batches[0], FEW)
            self.batches, self.counts = Batches([few]), [count(few, least=1)]
            v = random_vector(self.like, self.dimension, 0)
            own, plain = (
                self._product(self._prepared(0, kept=kept), list(self.parameters), v)
                for kept in (True, False)
            )
        except Exception:
            return False  # what is wrong is said of the whole data, with torch's graph
        finally:
            self.batches, self.counts, self.first_losses = batches, counts, None
        return bool((own - plain).norm() <= _AGREE[v.dtype] * plain.norm())

    def __call__(self, v: Tensor) -> Tensor:
        """(P,) -> (P,) of the type of `like`."""
        return self.block(list(self.parameters), v)

    def block(self, names: list[str], v: Tensor) -> Tensor:
        """Product with the diagonal block of some parameters: (p,) -> (p,), p their entries."""
        if self._again:  # forward passes are not worth the memory that their graph would keep
            with self.replay.on_stream():
                return self._sum(names, v)
        return self.replay.call(tuple(names), lambda v: self._sum(names, v), v)

    def _called(self, batch: Any) -> Any:
        if not self._leaves:
            return super()._called(batch)
        return functional_call(self._module, self._leaves, (batch,))

    def _sum(self, names: list[str], v: Tensor) -> Tensor:
        """Over the batches."""
        total = torch.zeros_like(v)
        for prepared in self._kept:
            total += self._product(prepared, names, v)
        for i in self._again:
            total += self._product(self._prepared(i, kept=False), names, v)
        return total

    def gradient(self) -> Tensor:
        """(P,) of the type of `like`: the gradient of the mean loss."""
        total = self.like.new_zeros(self.dimension)
        parameters = list(self.parameters.values())
        for prepared in self._kept:
            total += self._flat(parameters, self._gradient(prepared), total)
        for i in self._again:
            found = torch.autograd.grad(self.loss_of(i), parameters, allow_unused=True)
            total += self._flat(parameters, found, total)
        return total

    def where_not_finite(self, v: Tensor) -> str:
        """Which batch's product with v is not finite, for a message."""
        for i in range(len(self.batches)):
            product = self._product(self._prepared(i, kept=False), list(self.parameters), v)
            if not torch.isfinite(product).all():
                return f"batch {i}"
        return "the sum over batches"

    def _prepared(self, i: int, *, kept: bool = True) -> Any:
        """What products with batch i's share start from: its gradient, with the graph of it."""
        loss = self.loss_of(i, kept=kept)
        require_second_derivative(loss)
        self.custom.update(custom_functions(loss))
        with torch.enable_grad(), second_derivatives():
            gradients = torch.autograd.grad(
                loss, list(self.parameters.values()), create_graph=True, allow_unused=True
            )
        return dict(zip(self.parameters, gradients, strict=True))

    def _used(self, prepared: Any) -> set[str]:
        """Names of the parameters that a batch's losses depend on."""
        return {name for name, gradient in prepared.items() if gradient is not None}

    def _gradient(self, prepared: Any) -> list[Tensor | None]:
        return [None if g is None else g.detach() for g in prepared.values()]

    def _product(self, prepared: Any, names: list[str], v: Tensor) -> Tensor:
        gradient: dict[str, Tensor | None] = prepared
        parameters = [self.parameters[name] for name in names]
        shaped = self._shaped(parameters, v)
        # What does not depend on any parameter, the gradient of a linear loss say, has no share.
        curved = [(gradient[name], part) for name, part in zip(names, shaped, strict=True)]
        curved = [(g, part) for g, part in curved if g is not None and g.requires_grad]
        if not curved:
            return torch.zeros_like(v)
        outputs, directions = zip(*curved, strict=True)
        with second_derivatives():
            products = torch.autograd.grad(
                outputs, parameters, directions, retain_graph=True, allow_unused=True
            )
        return self._flat(parameters, products, v)

    @staticmethod
    def _shaped(parameters: list[Tensor], v: Tensor) -> list[Tensor]:
        parts = v.split([p.numel() for p in parameters])
        return [part.view_as(p).to(p.dtype) for part, p in zip(parts, parameters, strict=True)]

    @staticmethod
    def _flat(parameters: list[Tensor], products: Sequence[Tensor | None], v: Tensor) -> Tensor:
        flat = [
            v.new_zeros(p.numel()) if product is None else product.reshape(-1).to(v.dtype)
            for product, p in zip(products, parameters, strict=True)
        ]
        return torch.cat(flat)

    def _fitting(self, kept_bytes: int) -> int:
        """How many batches' graphs may be kept; always at least one's."""
        if len(self.counts) == 1:
            return 1
        per_sample = self._graph_bytes() / self.counts[0]
        fitting, left = 0, kept_bytes
        for samples in self.counts:
            left -= int(samples * per_sample)
            if left < 0:
                break
            fitting += 1
        return max(fitting, 1)

    def _graph_bytes(self) -> int:
        """What the graph of the first batch's gradient holds, its parameters aside."""
        gradient = sum(p.numel() * p.element_size() for p in self.parameters.values())
        own = {p.untyped_storage().data_ptr() for p in self.parameters.values()}
        seen: dict[int, int] = {}

        def note(x: Tensor) -> Tensor:
            storage = x.untyped_storage()
            if storage.data_ptr() not in own:
                seen[storage.data_ptr()] = storage.nbytes()
            return x

        with saved_tensors_hooks(note, lambda x: x):
            self._prepared(0)
        return gradient + sum(seen.values())


def require_second_derivative(loss: Tensor) -> None:
    """Raises where a function's backward is declared not to be differentiable.

    Autograd would leave its curvature out without a word.
    """
    if names := once_differentiable_functions(loss):
        raise ValueError(
            f"the model has no second derivative: custom autograd functions with a "
            f"once_differentiable backward: {', '.join(names)}"
        )


@contextlib.contextmanager
def second_derivatives():
    """Explains what cannot be differentiated twice."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        if not any(sign in str(error) for sign in _NO_SECOND_DERIVATIVE):
            raise
        raise ValueError(f"the model has no second derivative: {error}") from error


_NO_SECOND_DERIVATIVE = ("is not implemented", "not supported", "double backward")
