"""More parts of drawn models: what only some samples use, reuse, and reparametrised weights."""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint

from tests.property.pieces import ROUTES, Piece, matrix, recurrent


class Experts(Piece):
    """Rows go to the layer that `route` names; some layers may see none, or none of a sample."""

    ways = """
        masks; masks, skipped; index_add; sort and split; gathered matrices; samples, skipped;
        einsum; scatter; loop over samples; slots
    """

    def make(self, pick, d, length):
        self.gate = pick.random() < 0.4
        many = ROUTES + pick.choice([0, 0, 1])
        if self.what in ("gathered matrices", "einsum"):
            self.w = nn.Parameter(torch.randn(ROUTES, d, d) / d**0.5)
        else:
            self.inner = nn.ModuleList([nn.Linear(d, d) for _ in range(many)])
        if self.gate:
            self.router = nn.Linear(d, ROUTES)
        self.what = f"{self.what}{', gated' if self.gate else ''}"

    def forward(self, h, mask, route):
        out = self.experts(h, route, self.what.removesuffix(", gated"))
        if self.gate:
            weights = self.router(h).softmax(-1).gather(-1, route[..., None])
            out = out * weights
        return out

    def experts(self, h, route, how):
        n, length, d = h.shape
        flat, to = h.reshape(-1, d), route.reshape(-1)
        match how:
            case "masks" | "masks, skipped":
                out = torch.zeros_like(h)
                for e, layer in enumerate(self.inner):
                    here = route == e
                    if how == "masks" or here.any():
                        out[here] = layer(h[here])
                return out
            case "samples, skipped":
                out = torch.zeros_like(h)
                for e, layer in enumerate(self.inner):
                    here = route[:, 0] == e
                    if here.any():
                        out[here] = layer(h[here])
                return out
            case "index_add":
                out = torch.zeros_like(flat)
                for e, layer in enumerate(self.inner):
                    at = (to == e).nonzero().squeeze(1)
                    out.index_add_(0, at, layer(flat[at]))
                return out.view_as(h)
            case "sort and split":
                order = to.argsort(stable=True)
                sizes = torch.bincount(to, minlength=len(self.inner)).tolist()
                parts = flat[order].split(sizes)
                rows = torch.cat([e(x) for e, x in zip(self.inner, parts, strict=True)])
                return rows[order.argsort()].view_as(h)
            case "gathered matrices":
                return torch.einsum("ntd,ntde->nte", h, self.w[route])
            case "einsum":
                chosen = F.one_hot(route, ROUTES).to(h.dtype)
                return torch.einsum("nte,ntd,edf->ntf", chosen, h, self.w)
            case "scatter":
                out = torch.zeros_like(flat)
                for e, layer in enumerate(self.inner):
                    at = (to == e).nonzero().squeeze(1)
                    if len(at):
                        out = out.scatter(0, at[:, None].expand(-1, d), layer(flat[at]))
                return out.view_as(h)
            case "loop over samples":
                return torch.stack([self.inner[int(r[0])](one) for one, r in zip(h, route)])  # noqa: B905
            case _:
                # Every expert has as many slots as rows: rank within the expert, then a bmm.
                slots = torch.zeros(len(self.inner), n * length, d, dtype=h.dtype)
                chosen = F.one_hot(to, len(self.inner))
                rank = (chosen.cumsum(0) - 1).gather(1, to[:, None]).squeeze(1)
                slots = slots.index_put((to, rank), flat)
                w = torch.stack([layer.weight for layer in self.inner])
                b = torch.stack([layer.bias for layer in self.inner])
                return (slots @ w.mT + b[:, None])[to, rank].view_as(h)


class Sorted(Piece):
    """Samples in another order inside: by length, in groups of one length, or from the back."""

    ways = "by length; groups; groups, cut; index_select; chunks; halves; lists"

    def make(self, pick, d, length):
        self.rnn = pick.random() < 0.3
        self.inner, kind = recurrent(pick, d, True) if self.rnn else (nn.Linear(d, d), "Linear")
        self.what_inner = kind
        self.norm = nn.LayerNorm(d) if pick.random() < 0.3 else nn.Identity()
        self.what = f"{self.what}: {kind}"

    def rows(self, x):
        out = self.inner(x)
        return self.norm(out[0] if self.rnn else out)

    def forward(self, h, mask, route):
        lengths = mask.sum(1)
        order = lengths.argsort(stable=True, descending=True)
        match self.what.split(":")[0]:
            case "by length":
                return self.rows(h[order])[order.argsort()]
            case "index_select":
                x = self.rows(h.index_select(0, order))
                return torch.zeros_like(h).index_copy(0, order, x)
            case "groups" | "groups, cut":
                parts, places = [], []
                for size in lengths.unique().tolist():
                    at = (lengths == size).nonzero().squeeze(1)
                    cut = size if self.what.startswith("groups, cut") else h.shape[1]
                    x = self.rows(h[at, :cut])
                    parts.append(F.pad(x, (0, 0, 0, h.shape[1] - cut)))
                    places.append(at)
                return torch.cat(parts)[torch.cat(places).argsort()]
            case "chunks":
                return torch.cat([self.rows(x) for x in h.split(3)])
            case "halves":
                odd, even = h[1::2], h[::2]
                x = torch.cat([self.rows(part) for part in (even, odd) if len(part)])
                back = torch.cat([torch.arange(0, len(h), 2), torch.arange(1, len(h), 2)])
                return x[back.argsort()]
            case _:
                return torch.cat([self.rows(one[None]) for one in h])


class Conditional(Piece):
    """Branches and steps that some samples take and others do not."""

    ways = """
        branch; two branches; steps; early exit; long ones; where; any, one by one;
        switch on the first sample's shape; zero rows
    """

    def make(self, pick, d, length):
        self.a, self.b = nn.Linear(d, d), nn.Linear(d, d, bias=False)

    def forward(self, h, mask, route):
        kind = route[:, 0]
        match self.what:
            case "branch":
                here = kind > 1
                if here.any():
                    h = h.clone()
                    h[here] = torch.tanh(self.a(h[here]))
                return self.b(h)
            case "two branches":
                here = kind % 2 == 0
                out = torch.zeros_like(h)
                if here.any():
                    out[here] = self.a(h[here])
                if (~here).any():
                    out[~here] = self.b(h[~here])
                return out
            case "steps" | "early exit":
                out = self.b(h)
                for step in range(ROUTES - 1):
                    active = (kind > step).nonzero().squeeze(1)
                    if not len(active):
                        break
                    new = torch.tanh(self.a(out[active]))
                    out = out.index_copy(0, active, new)
                return out
            case "long ones":
                many = mask.sum(1) > 1
                extra = torch.zeros_like(h)
                if many.any():
                    extra = extra.index_put((many.nonzero().squeeze(1),), self.a(h[many]))
                return self.b(h) + extra
            case "where":
                return torch.where((kind > 1)[:, None, None], self.a(h), self.b(h))
            case "zero rows":
                return self.a(h * (kind > 1)[:, None, None]) + self.b(h)
            case "any, one by one":
                return torch.stack(
                    [self.a(one) if k > 1 else self.b(one) for one, k in zip(h, kind, strict=True)]
                )
            case _:
                return self.a(h) if h.shape[1] > 2 else self.b(self.a(h))


class Reuse(Piece):
    """One module several times, on inputs of other shapes too."""

    ways = """
        twice; pooled too; shared weight; tied transposed; in a loop; ragged too;
        other order too; submodule
    """

    def make(self, pick, d, length):
        self.a, self.b = nn.Linear(d, d), nn.Linear(d, d)
        if self.what == "shared weight":
            self.b.weight = self.a.weight
        if self.what == "submodule":
            self.b = nn.Sequential(self.a, nn.Tanh(), nn.LayerNorm(d))
            self.b[2].eps = 0.1
        if self.what == "tied transposed":
            self.a.bias = None
            del self.b
        elif self.what not in ("shared weight", "submodule"):
            del self.b

    def forward(self, h, mask, route):
        match self.what:
            case "twice":
                return self.a(torch.tanh(self.a(h)))
            case "pooled too":
                return self.a(h) + self.a(h.mean(1))[:, None]
            case "shared weight":
                return self.b(torch.tanh(self.a(h)))
            case "submodule":
                return self.b(h) + self.a(h)
            case "tied transposed":
                return F.linear(torch.tanh(self.a(h)), self.a.weight.T)
            case "in a loop":
                for _ in range(3):
                    h = h + 0.3 * torch.tanh(self.a(h))
                return h
            case "other order too":
                return self.a(h) + self.a(h.transpose(0, 1)).transpose(0, 1).tanh()
            case _:
                out = self.a(h).clone()
                out[mask] = out[mask] + torch.tanh(self.a(h[mask]))
                return out


class Reparametrised(Piece):
    """Weights that are computed from the parameters, in torch's ways and by hand."""

    ways = """
        weight_norm; weight_norm of conv; old weight_norm; spectral_norm; old spectral_norm;
        orthogonal; lora; own; masked; quantised
    """

    def make(self, pick, d, length):
        self.eval_only = "spectral_norm" in self.what
        # torch's fused second derivative of weight_norm is wrong (torch 2.13).
        self.trusted = not self.what.startswith(("weight_norm", "old weight_norm"))
        self.curved = self.what != "quantised"
        layer: nn.Module = nn.Linear(d, d)
        if self.what == "weight_norm of conv":
            layer = nn.Conv1d(d, d, 3, padding=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            match self.what:
                case "weight_norm" | "weight_norm of conv":
                    layer = parametrizations.weight_norm(layer, dim=pick.choice([0, 0, 1]))
                case "old weight_norm":
                    layer = nn.utils.weight_norm(layer)
                case "spectral_norm":
                    layer = parametrizations.spectral_norm(layer, n_power_iterations=4)
                case "old spectral_norm":
                    layer = nn.utils.spectral_norm(layer)
                    layer(torch.randn(3, d))
                case "orthogonal":
                    layer = parametrizations.orthogonal(layer)
                case "masked":
                    parametrize.register_parametrization(layer, "weight", Symmetric())
        self.inner = layer
        if self.what == "lora":
            layer.requires_grad_(False)
            self.down, self.up = matrix(2, d), matrix(d, 2)

    def forward(self, h, mask, route):
        match self.what:
            case "weight_norm of conv":
                return self.inner(h.mT).mT
            case "lora":
                return self.inner(h) + h @ self.down.T @ self.up.T
            case "own":
                w = self.inner.weight
                return F.linear(h, w / w.norm(dim=1, keepdim=True), self.inner.bias)
            case "quantised":
                w = self.inner.weight
                straight = w + ((w * 8).round() / 8 - w).detach()
                return F.linear(h, straight, self.inner.bias)
        return self.inner(h)


class Symmetric(nn.Module):
    def forward(self, w):
        return w.triu() + w.triu(1).mT


class Misc(Piece):
    ways = """
        checkpoint; prelu; residual; frozen; dropout off; identity dropout; in place; glu;
        cumsum; no batch share; detached; fold
    """

    def make(self, pick, d, length):
        self.eval_only = self.what == "dropout off"
        self.smooth = self.what != "prelu"
        self.curved = self.what != "detached"
        self.a = nn.Linear(d, 2 * d if self.what == "glu" else d)
        if self.what == "prelu":
            self.slope = nn.PReLU(d)
        if self.what == "frozen":
            self.b = nn.Linear(d, d).requires_grad_(False)
        if self.what == "no batch share":
            self.b, self.z = nn.Linear(d, d), nn.Parameter(torch.randn(1, d))
        if self.what in ("dropout off", "identity dropout"):
            self.drop = nn.Dropout(0.5 if self.what == "dropout off" else 0.0)

    def forward(self, h, mask, route):
        match self.what:
            case "checkpoint":
                return checkpoint(lambda x: torch.tanh(self.a(x)), h, use_reentrant=False)
            case "prelu":
                return self.slope(self.a(h).mT).mT
            case "residual":
                return h + torch.tanh(self.a(h))
            case "frozen":
                return self.b(torch.tanh(self.a(h)))
            case "dropout off" | "identity dropout":
                return self.drop(self.a(h))
            case "in place":
                out = F.silu(self.a(h), inplace=True)
                out += h
                return out
            case "glu":
                return F.glu(self.a(h), -1)
            case "cumsum":
                return self.a(h).cumsum(1) / h.shape[1]
            case "no batch share":
                return self.a(h) * torch.tanh(self.b(self.z))
            case "detached":
                return self.a(h) + self.a(h).detach()
            case _:
                return self.a(h.reshape(-1, h.shape[-1])).unflatten(0, h.shape[:2])
