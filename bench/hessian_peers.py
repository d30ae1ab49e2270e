"""Other libraries' Hessians, each fed a model that it can run; each takes part where installed."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

Found = tuple[float, Tensor]

#: What runs where PyHessian is not installed.
STAND_IN = "double backward, power iteration"


class Plain(nn.Module):
    """The same model with attention that can be differentiated twice: none of them sees to it."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return self.model(tokens)


class NextToken(nn.Module):
    """Mean next-token loss of (N, T, V) logits; all samples have the same length."""

    reduction = "mean"  # curvlinops asks

    def forward(self, logits: Tensor, tokens: Tensor) -> Tensor:
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


loss_of = NextToken()


@dataclass(frozen=True)
class Peer:
    """A library.

    Attributes:
        product: (P,) -> (P,).
        top: (tolerance of its own kind, products at most) -> eigenvalue and (P,) vector; a fresh
            search each time, with what it prepares for one.
    """

    product: Callable[[Tensor], Tensor]
    top: Callable[[float, int], Found]


def hessian_peers(model: nn.Module, tokens: Tensor) -> dict[str, Peer]:
    """Name -> library, on a copy of the model; those not installed are left out."""
    makers = {
        "pyhessian": ("pyhessian", _pyhessian),
        "hessian-eigenthings": ("hessian_eigenthings", _eigenthings),
        "curvlinops + eigsh": ("curvlinops", _curvlinops),
    }
    found = {}
    for name, (module, make) in makers.items():
        if importlib.util.find_spec(module):
            found[name] = make(importlib.import_module(module), Plain(copy.deepcopy(model)), tokens)
    if "pyhessian" not in found:
        found[STAND_IN] = _stand_in(Plain(copy.deepcopy(model)), tokens)
    return found


def _stand_in(model: nn.Module, tokens: Tensor) -> Peer:
    """What PyHessian does: power iteration on double backward through a gradient's kept graph.

    It stops by the relative residual, which a product and its vector give at no further product,
    and reads it on the host at every step, as PyHessian reads its eigenvalue.
    """
    parameters = list(model.parameters())
    sizes = [p.numel() for p in parameters]

    def kept() -> Tensor:
        loss = loss_of(model(tokens), tokens)
        gradients = torch.autograd.grad(loss, parameters, create_graph=True)
        return torch.cat([g.flatten() for g in gradients])

    def along(gradient: Tensor, v: Tensor) -> Tensor:
        found = torch.autograd.grad(gradient, parameters, v, retain_graph=True)
        return torch.cat([part.flatten() for part in found])

    state = kept()

    def top(tol: float, most: int) -> Found:
        gradient = kept()
        start = torch.randn(sum(sizes), generator=torch.Generator().manual_seed(0))
        v, value = start.to(tokens.device), 0.0
        for _ in range(most):
            v = v / v.norm()
            product = along(gradient, v)
            value = (v @ product).item()
            if (product - value * v).norm().item() <= tol * abs(value):
                break
            v = product
        return value, v

    return Peer(lambda v: along(state, v), top)


def _pyhessian(library: Any, model: nn.Module, tokens: Tensor) -> Peer:
    """Power iteration, which stops when the value changes by less than its tolerance."""

    def prepared() -> Any:
        with warnings.catch_warnings():
            # backward(create_graph=True) makes a cycle, of which torch warns.
            warnings.filterwarnings("ignore", message="Using backward")
            model.zero_grad(set_to_none=True)
            return library.hessian(model, loss_of, data=(tokens, tokens), cuda=tokens.is_cuda)

    state = prepared()
    shapes = [p.shape for p in state.params]

    def product(v: Tensor) -> Tensor:
        parts = v.split([shape.numel() for shape in shapes])
        direction = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
        done = library.hessian_vector_product(state.gradsH, state.params, direction)
        return torch.cat([part.flatten() for part in done])

    def top(tol: float, most: int) -> Found:
        with torch.random.fork_rng():  # it draws its start from the global generator
            torch.manual_seed(0)
            values, vectors = prepared().eigenvalues(maxIter=most, tol=tol)
        return values[0], torch.cat([part.flatten() for part in vectors[0]])

    return Peer(product, top)


def _eigenthings(library: Any, model: nn.Module, tokens: Tensor) -> Peer:
    """Lanczos with as many steps as it is told."""
    operator = library.HessianOperator(model, [tokens], lambda m, x: loss_of(m(x), x))

    def top(tol: float, most: int) -> Found:
        found = library.lanczos(operator, k=1, max_iter=most, tol=tol, which="LA", seed=0)
        return found.eigenvalues[0].item(), found.eigenvectors[0]

    return Peer(operator.matvec, top)


def _curvlinops(library: Any, model: nn.Module, tokens: Tensor) -> Peer:
    """ARPACK through SciPy."""
    linalg = importlib.import_module("scipy.sparse.linalg")
    parameters = list(model.parameters())
    operator = library.HessianLinearOperator(
        model, loss_of, parameters, [(tokens, tokens)], check_deterministic=False
    )

    def product(v: Tensor) -> Tensor:
        return operator @ v

    def matvec(v: Any) -> Any:  # its own adapter hands float64 on to a float32 model
        return product(torch.from_numpy(v).float().to(tokens.device)).cpu().numpy()

    def top(tol: float, most: int) -> Found:
        start = torch.randn(operator.shape[0], generator=torch.Generator().manual_seed(0))
        adapted = linalg.LinearOperator(operator.shape, matvec=matvec, dtype=start.numpy().dtype)
        values, vectors = linalg.eigsh(
            adapted, k=1, which="LA", tol=tol, maxiter=most, v0=start.numpy()
        )
        return float(values[0]), torch.from_numpy(vectors[:, 0]).to(tokens.device)

    return Peer(product, top)
