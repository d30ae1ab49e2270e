"""Other libraries' Hessians, each fed a model that it can run; each takes part where installed."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

Found = tuple[float, Tensor]

#: Relative residual that a search has to reach, and products that it may take.
TOL, MOST = 1e-3, 400

#: What runs where PyHessian is not installed.
STAND_IN = "double backward, power iteration"
#: What anyone would write in twenty lines: the rival of any model's Hessian.
PLAIN = "double backward, eigsh"
#: Sizes of its basis that are tried: with SciPy's own, 20, it takes 20 products at least.
BASES = (4, 6, 8, 10, 12, 14, 16, 18, 20, 24, 28, 32)


class Plain(nn.Module):
    """The same model with attention that can be differentiated twice: none of them sees to it."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return self.model(tokens)


class NextToken(nn.Module):
    """Mean loss of (N, T, V) logits for the tokens from one on; all samples have the same length.

    Args:
        first: number of the first token that is predicted.
    """

    reduction = "mean"  # curvlinops asks

    def __init__(self, first: int = 1):
        super().__init__()
        self.first = first

    def forward(self, logits: Tensor, tokens: Tensor) -> Tensor:
        said = logits[:, self.first - 1 : -1].flatten(0, 1)
        return F.cross_entropy(said, tokens[:, self.first :].flatten())


@dataclass(frozen=True)
class Peer:
    """A library.

    Attributes:
        product: (P,) -> (P,).
        top: (tolerance of its own kind, products at most) -> eigenvalue and (P,) vector; a fresh
            search each time, with what it prepares for one. Of `PLAIN` the second is the size of
            of the basis.
        counted: products of all searches so far, where they are counted.
    """

    product: Callable[[Tensor], Tensor]
    top: Callable[[float, int], Found]
    counted: Callable[[], int] | None = None


def settings_of(name: str) -> list[tuple[float, int]]:
    """From loose to tight: tolerance and products at most."""
    if name == STAND_IN:  # which stops by the residual itself
        return [(TOL, MOST)]
    if name == PLAIN:
        return [(TOL, size) for size in BASES]
    if name == "hessian-eigenthings":
        return [(TOL, steps) for steps in (*range(4, 40, 2), *range(40, MOST, 10))]
    if name == "curvlinops + eigsh":
        return [(TOL * 10.0**-i, MOST) for i in range(6)]
    return [(TOL * 10.0 ** (-i / 2), MOST) for i in range(14)]


def residual_of(product: Callable[[Tensor], Tensor], found: Found) -> float:
    """|H v - value v| / |value|."""
    value, vector = found
    vector = vector.detach() / vector.norm()
    return ((product(vector) - value * vector).norm() / abs(value)).item()


def loosest(peer: Peer, tried: list[tuple[float, int]]) -> tuple[float, int, Found]:
    """The first setting that reaches the residual, by the library's own products, or the last.

    Of a peer whose products are counted, the one of fewest.
    """
    if peer.counted is not None:
        counts = {}
        for setting in tried:
            before, top = peer.counted(), peer.top(*setting)
            counts[setting] = peer.counted() - before, top
        best = min(counts, key=lambda setting: counts[setting][0])
        return *best, counts[best][1]
    *others, last = tried
    for tol, most in others:
        top = peer.top(tol, most)
        if residual_of(peer.product, top) <= TOL:
            return tol, most, top
    return *last, peer.top(*last)


def hessian_peers(
    model: nn.Module, tokens: Tensor, loss: NextToken, names: Collection[str] | None = None
) -> dict[str, Peer]:
    """Name -> library, on a copy of the model; those not installed are left out.

    Args:
        model: logits (N, T, V) of tokens.
        tokens: (N, T).
        loss: of both.
        names: of those wanted; None for all.
    """
    makers = {
        "pyhessian": ("pyhessian", _pyhessian),
        "hessian-eigenthings": ("hessian_eigenthings", _eigenthings),
        "curvlinops + eigsh": ("curvlinops", _curvlinops),
    }
    found = {}
    for name, (module, make) in makers.items():
        if (names is None or name in names) and importlib.util.find_spec(module):
            copied = Plain(copy.deepcopy(model))
            found[name] = make(importlib.import_module(module), copied, tokens, loss)
    for name, make in {STAND_IN: _stand_in, PLAIN: _plain}.items():
        wanted = name in names if names else name == PLAIN or "pyhessian" not in found
        if wanted:
            found[name] = make(_Kept(Plain(copy.deepcopy(model)), tokens, loss))
    return found


class _Kept:
    """Double backward through a gradient's kept graph."""

    def __init__(self, model: nn.Module, tokens: Tensor, loss: NextToken):
        self.model, self.tokens, self.loss = model, tokens, loss
        self.parameters = list(model.parameters())
        size = sum(p.numel() for p in self.parameters)
        start = torch.randn(size, generator=torch.Generator().manual_seed(0))
        self.start = start.to(tokens.device)
        self.products = 0

    def gradient(self) -> Tensor:
        loss = self.loss(self.model(self.tokens), self.tokens)
        gradients = torch.autograd.grad(loss, self.parameters, create_graph=True)
        return torch.cat([g.flatten() for g in gradients])

    def along(self, gradient: Tensor, v: Tensor) -> Tensor:
        self.products += 1
        found = torch.autograd.grad(gradient, self.parameters, v, retain_graph=True)
        return torch.cat([part.flatten() for part in found])


def _plain(kept: _Kept) -> Peer:
    """SciPy's Lanczos on it, which stops by the residual."""
    linalg = importlib.import_module("scipy.sparse.linalg")
    state = kept.gradient()

    def top(tol: float, most: int) -> Found:
        gradient = kept.gradient()

        def matvec(v: Any) -> Any:
            v = torch.from_numpy(v).flatten().to(gradient)
            return kept.along(gradient, v).cpu().numpy()

        size = len(kept.start)
        start = kept.start.cpu().numpy()
        operator = linalg.LinearOperator((size, size), matvec=matvec, dtype=start.dtype)
        values, vectors = linalg.eigsh(operator, 1, which="LA", tol=tol, ncv=most, v0=start)
        return float(values[0]), torch.from_numpy(vectors[:, 0]).to(gradient.device)

    return Peer(lambda v: kept.along(state, v), top, lambda: kept.products)


def _stand_in(kept: _Kept) -> Peer:
    """What PyHessian does: power iteration.

    It stops by the relative residual, which a product and its vector give at no further product,
    and reads it on the host at every step, as PyHessian reads its eigenvalue.
    """
    state = kept.gradient()

    def top(tol: float, most: int) -> Found:
        gradient, v, value = kept.gradient(), kept.start, 0.0
        for _ in range(most):
            v = v / v.norm()
            product = kept.along(gradient, v)
            value = (v @ product).item()
            if (product - value * v).norm().item() <= tol * abs(value):
                break
            v = product
        return value, v

    return Peer(lambda v: kept.along(state, v), top)


def _pyhessian(library: Any, model: nn.Module, tokens: Tensor, loss: NextToken) -> Peer:
    """Power iteration, which stops when the value changes by less than its tolerance."""

    def prepared() -> Any:
        with warnings.catch_warnings():
            # backward(create_graph=True) makes a cycle, of which torch warns.
            warnings.filterwarnings("ignore", message="Using backward")
            model.zero_grad(set_to_none=True)
            return library.hessian(model, loss, data=(tokens, tokens), cuda=tokens.is_cuda)

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


def _eigenthings(library: Any, model: nn.Module, tokens: Tensor, loss: NextToken) -> Peer:
    """Lanczos with as many steps as it is told."""
    operator = library.HessianOperator(model, [tokens], lambda m, x: loss(m(x), x))

    def top(tol: float, most: int) -> Found:
        found = library.lanczos(operator, k=1, max_iter=most, tol=tol, which="LA", seed=0)
        return found.eigenvalues[0].item(), found.eigenvectors[0]

    return Peer(operator.matvec, top)


def _curvlinops(library: Any, model: nn.Module, tokens: Tensor, loss: NextToken) -> Peer:
    """ARPACK through SciPy."""
    linalg = importlib.import_module("scipy.sparse.linalg")
    parameters = list(model.parameters())
    operator = library.HessianLinearOperator(
        model, loss, parameters, [(tokens, tokens)], check_deterministic=False
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
