"""Random small models with losses and batches, each made from a seed alone."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.property import branches, layers, pieces, unfit
from tests.property.pieces import ROUTES, Piece

PARTS: list[type[Piece]] = [
    pieces.Dense,
    pieces.Rows,
    pieces.Ragged,
    pieces.Recurrent,
    pieces.Packed,
    layers.Attention,
    layers.OwnAttention,
    layers.Encoder,
    layers.Norm,
    layers.Conv,
    layers.OneByOne,
    layers.Table,
    layers.Scalars,
    branches.Experts,
    branches.Sorted,
    branches.Conditional,
    branches.Reuse,
    branches.Reparametrised,
    branches.Misc,
]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "silu": F.silu,
    "softplus": F.softplus,
    "sin": torch.sin,
    "relu": F.relu,
    "none": lambda x: x,
}
IGNORED = -100
# Samples from which on draws are kept small in other ways, for time.
MANY = 24
VOCABULARY = 6
FIELDS = ("x", "mask", "route", "y")
Nature = Literal["right", "coupled", "random"]


@dataclass
class Draw:
    """A model, its loss and a batch.

    Attributes:
        seed: makes the same draw again.
        model, loss_fn, batch: as geomfast takes them.
        samples: N.
        nature: "right", or why every measure of single samples has to be refused.
        smooth, trusted, curved: see `Piece`.
        what: all of it in words.
    """

    seed: int
    model: nn.Module
    loss_fn: Callable[[nn.Module, Any], Tensor]
    batch: Any
    samples: int
    nature: Nature
    smooth: bool
    trusted: bool
    curved: bool
    what: str


class Drawn(nn.Module):
    """Input, parts with activations between them, head."""

    def __init__(self, pick: random.Random, shape: Shape, parts: list[type[Piece]]):
        super().__init__()
        d = shape.width
        match shape.kind:
            case "tokens":
                self.table = nn.Embedding(
                    VOCABULARY, d, padding_idx=shape.padding, sparse=shape.sparse
                )
            case "bag":
                self.table = nn.EmbeddingBag(VOCABULARY, d, mode="mean", padding_idx=shape.padding)
            case "images":
                self.patches = nn.Conv2d(
                    2, d, 2, stride=pick.choice([1, 2]), padding=pick.choice([0, 1]), groups=1
                )
            case "vectors" | "sequences" if shape.first:
                self.first = nn.Linear(3, d)
        self.kind, self.has_first = shape.kind, shape.first
        self.parts = nn.ModuleList(part(pick, d, shape.length) for part in parts)
        smooth = [name for name in ACTIVATIONS if name != "relu"]
        some = list(ACTIVATIONS) if shape.samples < MANY else smooth
        self.activations = [pick.choice(some) for _ in parts]
        self.norm = nn.LayerNorm(d) if pick.random() < 0.2 else None
        if self.norm is not None:
            self.norm.eps = 0.1
        self.head_kind = shape.head
        match shape.head:
            case "pooled" | "last" | "tokens" | "flat tokens" | "valid tokens":
                self.head = nn.Linear(d, VOCABULARY, bias=pick.random() < 0.5)
            case "tied":
                self.head_bias = nn.Parameter(torch.zeros(VOCABULARY))
            case "adaptive":
                self.head = nn.AdaptiveLogSoftmaxWithLoss(d, VOCABULARY, [2, 4], div_value=2.0)

    def embedded(self, x: Tensor) -> Tensor:
        match self.kind:
            case "tokens":
                return self.table(x)
            case "bag":
                return self.table(x)[:, None]
            case "images":
                return self.patches(x).flatten(2).mT
        h = self.first(x) if self.has_first else x
        return h[:, None] if self.kind == "vectors" else h

    def hidden(self, x: Tensor, mask: Tensor, route: Tensor) -> Tensor:
        h = self.embedded(x)
        for part, activation in zip(self.parts, self.activations, strict=True):
            h = ACTIVATIONS[activation](part(h, mask, route))
        return h if self.norm is None else self.norm(h)

    def forward(self, x: Tensor, mask: Tensor, route: Tensor) -> Tensor:
        h = self.hidden(x, mask, route)
        match self.head_kind:
            case "tied":
                return h @ self.table.weight.T + self.head_bias
            case "tokens" | "flat tokens" | "valid tokens":
                return self.head(h)
            case "last":
                last = mask.sum(1).sub(1)[:, None, None].expand(-1, 1, h.shape[-1])
                return self.head(h.gather(1, last).squeeze(1))
            case "none":
                return h
        here = mask[..., None].to(h.dtype)
        pooled = (h * here).sum(1) / here.sum(1)
        return pooled if self.head_kind == "adaptive" else self.head(pooled)

    def smooth(self) -> bool:
        return "relu" not in self.activations and all(part.smooth for part in self.parts)


@dataclass
class Shape:
    samples: int
    length: int
    width: int
    kind: str
    head: str
    loss: str
    layout: str
    padding: int | None
    sparse: bool
    first: bool


def numbers(pick: random.Random) -> int:
    """N: small ones, primes, and what many numbers of rows divide by."""
    any_number = pick.randint(1, 70)
    prime = pick.choice([17, 19, 23, 31, 37, 41, 43, 47, 53, 59, 61, 67])
    often = pick.choice([32, 48, 60, 33, 35])
    return pick.choice([*range(1, 17), *range(2, 9), prime, often, often, any_number])


def shaped(pick: random.Random) -> Shape:
    kind = pick.choice(["vectors", "sequences", "sequences", "tokens", "tokens", "images", "bag"])
    samples = numbers(pick)
    length = 1 if kind in ("vectors", "bag") else pick.randint(1, 6 if samples < MANY else 4)
    width = pick.choice([2, 3, 4, 4, 5, 6])
    if samples <= 6 and pick.random() < 0.2:
        width = max(samples, 2)  # as many channels as samples
    heads = ["pooled", "pooled", "last", "none"]
    if kind != "vectors":
        heads += ["tokens", "flat tokens", "valid tokens"]
    if kind == "tokens":
        heads += ["tied"]
    if kind != "images":
        heads += ["adaptive"]
    head = pick.choice(heads)
    return Shape(
        samples,
        length,
        width,
        kind,
        head,
        loss=pick.choice(["squares", "cross-entropy", "cross-entropy"]),
        layout=pick.choice(["mapping", "tuple", "list"]),
        padding=pick.choice([None, 0]),
        sparse=pick.random() < 0.15,
        first=kind in ("vectors", "sequences") and pick.random() < 0.5,
    )


def drawn(seed: int) -> Draw:
    """The draw of a seed; the global random state stays as it is."""
    pick = random.Random(seed)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        return _drawn(seed, pick)


def _drawn(seed: int, pick: random.Random) -> Draw:
    shape = shaped(pick)
    nature: Nature = pick.choices(["right", "coupled", "random"], [88, 6, 6])[0]
    dtype = pick.choice([torch.float32, torch.float64])
    parts = pick.choices(
        PARTS, k=pick.choice([1, 1, 2, 2, 3] if shape.samples < MANY else [1, 1, 2])
    )
    if nature != "right":
        parts.insert(
            pick.randint(0, len(parts)), unfit.Coupled if nature == "coupled" else unfit.Random
        )
    if shape.kind == "images":
        shape.length = 0  # known from the patches
        side = pick.choice([2, 3])
        images = torch.randn(shape.samples, 2, side, side)
    model_pick = random.Random(pick.random())
    if shape.kind == "images":
        trial = Drawn(random.Random(0), shape, [])
        state = model_pick.getstate()
        trial = Drawn(model_pick, shape, [])
        model_pick.setstate(state)
        shape.length = trial.embedded(images).shape[1]
        torch.manual_seed(seed)
    model = Drawn(model_pick, shape, parts)
    model.to(dtype)
    _set_mode(model, pick, nature)
    batch = _fields(pick, shape, images if shape.kind == "images" else None)
    batch = {k: v.to(dtype) if v.is_floating_point() else v for k, v in batch.items()}
    laid = {
        "mapping": lambda: batch,
        "tuple": lambda: tuple(batch[f] for f in FIELDS),
        "list": lambda: [batch[f] for f in FIELDS],
    }[shape.layout]()
    described = " | ".join(
        f"{type(part).__name__} {part.what} > {activation}"
        for part, activation in zip(model.parts, model.activations, strict=True)
    )
    mode = "training" if model.training else "eval"
    what = (
        f"{nature} N={shape.samples} T={shape.length} d={shape.width} {dtype} {mode} {shape.kind}"
        f" (padding={shape.padding} sparse={shape.sparse} first={shape.first}) > {described}"
        f" > norm={model.norm is not None} head={shape.head} loss={shape.loss} batch={shape.layout}"
    )
    return Draw(
        seed,
        model,
        _loss(shape),
        laid,
        shape.samples,
        nature,
        # The head uses the row that the table calls padding, whose gradient then is half of it.
        model.smooth() and not (shape.head == "tied" and shape.padding is not None),
        all(part.trusted for part in model.parts),
        all(part.curved for part in model.parts),
        what,
    )


def _set_mode(model: Drawn, pick: random.Random, nature: Nature) -> None:
    """Evaluation for what needs it, training for what is to be refused, either for the rest."""
    training = pick.random() < 0.3 and not any(part.eval_only for part in model.parts)
    model.train(training)
    for part in model.parts:
        if isinstance(part, (unfit.Coupled, unfit.Random)):
            part.train()


def _fields(pick: random.Random, shape: Shape, images: Tensor | None) -> dict[str, Tensor]:
    n, length = shape.samples, shape.length
    if pick.random() < 0.6 and images is None:
        lengths = _lengths(pick, n, length)
    else:
        lengths = torch.full((n,), length)
    mask = torch.arange(length) < lengths[:, None]
    choices = pick.choice([ROUTES, ROUTES, 2, 1])
    route = torch.tensor([[pick.randrange(choices) for _ in range(length)] for _ in range(n)])
    match shape.kind:
        case "images":
            assert images is not None
            x = images
        case "tokens" | "bag":
            many = length if shape.kind == "tokens" else 3
            x = torch.randint(VOCABULARY, (n, many))
            x[:, 0] = x[:, 0].clamp_min(1)  # a bag of padding alone has no mean
        case "vectors":
            x = torch.randn(n, 3 if shape.first else shape.width)
        case _:
            x = torch.randn(n, length, 3 if shape.first else shape.width)
    y = torch.randint(VOCABULARY, (n, length))
    if pick.random() < 0.5:
        y[torch.rand(n, length) < 0.3] = IGNORED
    return {"x": x, "mask": mask, "route": route, "y": y}


def _lengths(pick: random.Random, n: int, length: int) -> Tensor:
    """(N,) in 1..length; often so that N divides all rows that exist, which proves nothing."""
    lengths = [pick.randint(1, length) for _ in range(n)]
    if pick.random() < 0.5:
        wanted = n * round(sum(lengths) / n)
        while (missing := wanted - sum(lengths)) != 0:
            i = pick.randrange(n)
            lengths[i] = min(max(lengths[i] + (1 if missing > 0 else -1), 1), length)
    return torch.tensor(lengths)


def _loss(shape: Shape) -> Callable[[nn.Module, Any], Tensor]:
    mean = shape.sparse  # any bit of the draw will do

    def loss(model: Any, batch: Any) -> Tensor:
        x, mask, route, y = (batch[f] for f in FIELDS) if isinstance(batch, dict) else tuple(batch)
        out = model(x, mask, route)
        y = y.masked_fill(~mask, IGNORED)
        if shape.head == "adaptive":
            return -model.head(out, y[:, 0].clamp_min(0)).output
        if shape.head == "none":
            return _squares(out, mask)
        if out.dim() == 2:
            if shape.loss == "squares":
                target = F.one_hot(y[:, 0].clamp_min(0), VOCABULARY).to(out.dtype)
                return (out - target).square().sum(1)
            return F.cross_entropy(out, y[:, 0].clamp_min(0), reduction="none")
        if shape.loss == "squares":
            return _squares(out, mask)
        counted = y != IGNORED
        if shape.head == "flat tokens":
            rows = F.cross_entropy(
                out.reshape(-1, VOCABULARY), y.reshape(-1), reduction="none", ignore_index=IGNORED
            ).view_as(y)
        elif shape.head == "valid tokens":
            chosen = F.cross_entropy(out[counted], y[counted], reduction="none")
            rows = out.new_zeros(y.shape).masked_scatter(counted, chosen)
        else:
            rows = F.cross_entropy(out.mT, y, reduction="none", ignore_index=IGNORED)
        total = rows.sum(1)
        return total / counted.sum(1).clamp_min(1) if mean else total

    return loss


def _squares(out: Tensor, mask: Tensor) -> Tensor:
    target = torch.linspace(-1, 1, out.shape[-1], dtype=out.dtype)
    return ((out - target).square().mean(-1) * mask).sum(1)
