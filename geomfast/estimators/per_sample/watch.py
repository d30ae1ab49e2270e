"""How each operation uses a parameter, and what a sample's gradient is made of then.

Watches one forward pass of any model, module or plain function alike, and notes for every use of a
parameter what its per-sample gradient needs: an input, and where the gradient of the output will
flow. Nothing is computed twice and no gradient is stored.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from geomfast.estimators.per_sample.follow import followed_dimension, returned
from geomfast.kernels.gradient_gram import Factors

#: Gradient of an operation's output, samples first -> what one parameter's gradient is made of.
Rule = Callable[[Tensor], Factors]


@dataclass(eq=False)
class Use:
    """One use of a parameter: `rule` turns the gradient that arrives at `edge` into factors.

    Attributes:
        key: a number of its own in one forward pass.
        name: of the parameter.
        followed: whether it is known which sample each row of the gradient belongs to.
        view: the transposed view that was used, None for the parameter itself. Autograd knows the
            parameter once for all uses of a view.
    """

    key: int
    name: str
    edge: GradientEdge
    rule: Rule
    view: Tensor | None
    followed: bool = False


class Arrivals:
    """Hands every gradient that arrives at a use, by its key, to the caller that wants it then.

    All that hooks may hold: a use, say, knows the graph, and a graph that hooks lead back to is
    never freed.
    """

    def __init__(self) -> None:
        self.wanted_by: Callable[[int, Tensor], None] | None = None

    def take(self, key: int, gradient: Tensor) -> None:
        if self.wanted_by is not None:
            self.wanted_by(key, gradient)


class NotHandled(Exception):
    """No rule fits this use; the parameter's gradients have to be made one by one."""


class Watch(TorchFunctionMode):
    """Collects the uses of parameters while it is active.

    Args:
        parameters: name -> parameter to watch.
        batch: tensors of the batch, N samples each along their first dimension.
        samples: N.
        may_expand: hand out rows of a table without samples once per sample.

    Attributes:
        uses: in the order of the forward pass.
        arrivals: where their gradients come in, during a backward pass.
        unhandled: names of parameters with a use that no rule fits.
        expanded: whether anything was handed out once per sample.
        doubtful: whether that went into anything but a sum or product with samples, which alone is
            sure to take it as if it had been broadcast.
    """

    def __init__(
        self,
        parameters: dict[str, Tensor],
        batch: list[Tensor],
        samples: int,
        may_expand: bool = True,
    ):
        super().__init__()
        self.samples = samples
        self.may_expand = may_expand
        self.expanded = False
        self.doubtful = False
        self.uses: list[Use] = []
        self.arrivals = Arrivals()
        self._keys = itertools.count()
        self.unhandled: set[str] = set()
        self._names = WeakTensorKeyDictionary({p: name for name, p in parameters.items()})
        self._transposed = WeakTensorKeyDictionary()
        # What was computed from the batch has samples; a table of positions, looked up by a range,
        # has none, whatever its shape.
        # The dimension that holds them, where it could be followed.
        self._sampled = WeakTensorKeyDictionary(dict.fromkeys(batch, 0))
        self._per_sample = WeakTensorKeyDictionary()
        self._versions: list[tuple[str, Tensor, int]] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        used = [x for x in tensors if x in self._names or x in self._transposed]
        sampled = [
            (x, at) for x in tensors if (at := self._sampled.get(x, _WITHOUT)) is not _WITHOUT
        ]
        followed = [(x, at) for x, at in sampled if at is not None]
        noted = len(self.uses)
        if used and torch.is_grad_enabled():
            out = self._watched(func, args, kwargs, used)
        else:
            out = func(*args, **kwargs)
        if self.expanded and any(x in self._per_sample for x in tensors):
            self._follow_expanded(func, tensors, out)
        rows = all(at == 0 for _, at in sampled)
        if sampled:
            for x in returned(func, args, out):
                at = None
                if len(followed) == len(sampled):
                    at = followed_dimension(func, args, kwargs, followed, x, self.samples)
                self._sampled[x] = at
                rows = rows and at == 0
        for use in self.uses[noted:]:
            use.followed = rows
        return out

    def _follow_expanded(self, func: Any, tensors: list[Tensor], out: Any) -> None:
        """Notes whether a row of a table would have done here what its copies per sample did."""
        shapes_agree = isinstance(out, Tensor) and all(x.shape == out.shape for x in tensors)
        if func not in _ELEMENTWISE or not shapes_agree:
            self.doubtful = True
        elif not any(x in self._sampled for x in tensors):
            self._per_sample[out] = True

    def changed_inputs(self) -> set[str]:
        """Names of parameters whose noted inputs were overwritten in place since."""
        return {name for name, x, version in self._versions if x._version != version}

    def _watched(self, func: Any, args: tuple, kwargs: dict, used: list[Tensor]) -> Any:
        from geomfast.estimators.per_sample.rules import RULES

        rule = RULES.get(func)
        if rule is not None:
            noted = len(self.uses)
            try:
                return rule(self, *args, **kwargs)
            except (NotHandled, TypeError):  # TypeError: arguments that the rule does not know
                del self.uses[noted:]
        out = func(*args, **kwargs)
        if any(isinstance(x, Tensor) and x.requires_grad for x in tree_leaves(out)):
            self.unhandled |= {self.name(x) for x in used}
        return out

    # What the rules ask and say.

    def name(self, x: Any) -> str:
        """Name of a watched parameter or of a transposed view of one; "" for anything else."""
        if not isinstance(x, Tensor):
            return ""
        return str(self._names.get(x) or self._transposed.get(x, ""))

    def is_transposed(self, x: Tensor) -> bool:
        """Whether x is a transposed view of a watched parameter."""
        return x in self._transposed

    def note_transposed(self, view: Tensor, parameter: Tensor) -> None:
        self._transposed[view] = self._names[parameter]

    def has_samples(self, x: Any) -> bool:
        """Whether x was computed from the batch."""
        return isinstance(x, Tensor) and x in self._sampled

    def keep(self, x: Tensor, *names: str) -> Tensor:
        """x for later; noticed if it is overwritten before."""
        self._versions += [(name, x, x._version) for name in names]
        return x.detach()

    def forget(self) -> None:
        """Lets go of every tensor, and of the graph."""
        self.uses.clear()
        self._versions.clear()

    def note(self, parameter: Tensor, out: Tensor, rule: Rule) -> None:
        """The gradient arriving at `out` is all that `rule` needs."""
        view = parameter if self.is_transposed(parameter) else None
        key, arrivals = next(self._keys), self.arrivals
        self.uses.append(Use(key, self.name(parameter), get_gradient_edge(out), rule, view))
        out.register_hook(lambda gradient: arrivals.take(key, gradient))

    def rows(self, x: Tensor, width_dims: int = 1) -> Tensor:
        """(N, T, width): x with samples first and everything between flattened.

        A first dimension that N divides is taken for samples and positions flattened together;
        where that does not follow from how x was made, the use is verified.
        """
        if x.dim() < width_dims + 1 or x.shape[0] % self.samples != 0:
            raise NotHandled
        width = x.shape[-width_dims:].numel()
        if width == 0:  # nothing tells the number of positions
            raise NotHandled
        return x.reshape(self.samples, -1, width)

    def expand(self, x: Tensor) -> Tensor:
        """x once per sample, without copying, so that gradients of samples arrive apart.

        What follows must take the further dimension as if it had been broadcast. A program that
        does not (weights cut out of a larger one, say) fails or gives other losses, and is watched
        again without this.
        """
        if not self.may_expand:
            raise NotHandled
        if x.dim() > 2 and x.shape[0] == 1:
            x = x[0]
        x = x.expand(self.samples, *x.shape)
        self.expanded = True
        self._per_sample[x] = True
        return x


# Of a tensor that does not depend on the batch.
_WITHOUT: Any = object()

# Sums and products of tensors of one shape.
_ELEMENTWISE = {
    torch.add,
    Tensor.add,
    Tensor.__add__,
    Tensor.__radd__,
    Tensor.__iadd__,
    torch.mul,
    Tensor.mul,
    Tensor.__mul__,
    Tensor.__rmul__,
}
