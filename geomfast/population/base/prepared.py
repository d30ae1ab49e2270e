"""A base made ready: loaded, its parts found, its examples encoded, its trunk run once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from geomfast.lm.causal_lm import CausalLM, load
from geomfast.lm.encoding import EncodedProbes
from geomfast.lm.hub import LoadError
from geomfast.lm.probe_sets import ProbeSet
from geomfast.population.base.examples import (
    Order,
    Rows,
    ScoredRows,
    TrainRows,
    alike,
    content_hash,
    encoded,
    read_examples,
    scored_rows,
    train_rows,
)
from geomfast.population.base.plan import (
    IN_TURN,
    STACKED_HEAD,
    STACKED_TAIL,
    Base,
    BaseSettings,
)
from geomfast.population.base.reinit import Initialiser, Parts, find_parts
from geomfast.population.base.tail import Tail, checked, sample_rows
from geomfast.population.base.trunk import (
    Anatomy,
    AtPlaces,
    AtTokens,
    anatomy,
    at_places,
    at_tokens,
    logits_at,
)
from geomfast.runs.errors import PlanError, RunError
from geomfast.testbed.training.checkpoints import weights_hash


@dataclass
class Prepared:
    """All that members of a base share.

    Attributes:
        base: what the plan says of it.
        settings: the population's.
        model: in evaluation mode, on the device; the head untied where it is re-initialised.
        anatomy: its modules.
        parts: what is re-initialised.
        train, test: rows of the examples.
        trained: names of the parameters that members have of their own, matrices first.
        decayed: how many of their numbers belong to matrices.
    """

    base: Base
    settings: BaseSettings
    model: nn.Module
    anatomy: Anatomy
    parts: Parts
    train: TrainRows
    test: ScoredRows
    trained: tuple[str, ...]
    decayed: int

    @property
    def device(self) -> torch.device:
        """Of the model."""
        return next(self.model.parameters()).device

    @property
    def order(self) -> Order:
        """In which members are trained on the examples."""
        return Order(len(self.train), self.settings.batch_size, int(self.train.lengths.sum()))

    @property
    def tail(self) -> Tail:
        """The tail of a stacked base."""
        start = self.base.layers - self.base.tail
        names, answers = self.trained, self.base.answers_only
        return Tail(self.model, self.anatomy, start, names, answers)

    @cached_property
    def shapes(self) -> list[torch.Size]:
        """Of the trained parameters."""
        return [self.model.get_parameter(name).shape for name in self.trained]

    @cached_property
    def places(self) -> tuple[AtPlaces, AtPlaces]:
        """States of training and test rows at their places: what a stacked head is trained on."""
        return (
            at_places(self.model, self.anatomy, self.train),
            at_places(self.model, self.anatomy, self.test),
        )

    @cached_property
    def tokens(self) -> tuple[AtTokens, AtTokens]:
        """States of training and test rows that the tail begins with, at all tokens."""
        block = self.anatomy.blocks[self.base.layers - self.base.tail]
        return (
            at_tokens(self.model, block, self.train),
            at_tokens(self.model, block, self.test),
        )

    @cached_property
    def _initialiser(self) -> Initialiser:
        return Initialiser(self.model, self.parts)

    @cached_property
    def _pretrained(self) -> dict[str, Tensor]:
        """The trained parameters as they were loaded; members in turn write over the model's."""
        parts = set(self.parts.names)
        return {
            name: self.model.get_parameter(name).detach().cpu().clone()
            for name in self.trained
            if name not in parts
        }

    def start(self, seeds: Sequence[int]) -> Tensor:
        """(C, P) float32 trained parameters of members before training, on the device."""
        rows = torch.empty(len(seeds), self.base.trained, device=self.device)
        for row, seed in zip(rows, seeds, strict=True):
            own = self._pretrained | self._initialiser.draw(seed)
            row.copy_(torch.cat([own[name].flatten() for name in self.trained]))
        return rows

    def views(self, buffer: Tensor) -> list[Tensor]:
        """A (C, P) buffer as one tensor (C, ...) for every trained parameter."""
        parts = buffer.detach().split([shape.numel() for shape in self.shapes], 1)
        return [p.view(len(buffer), *s) for p, s in zip(parts, self.shapes, strict=True)]


def loaded(source: str, revision: str | None, device: str) -> CausalLM:
    """A base with its tokenizer, in float32.

    Raises:
        PlanError: it cannot be loaded, or has no tokenizer.
    """
    try:
        return load(source, revision, device=device)
    except LoadError as error:
        raise PlanError(f"--base {error}") from error


def described(
    lm: CausalLM, name: str, settings: BaseSettings, train: ProbeSet, test: ProbeSet, *, stack: bool
) -> Prepared:
    """A base as it is found, ready to be trained; nothing of its trunk is run yet.

    Args:
        lm: the base; its head is untied where it is re-initialised.
        name: of its scale.
        settings: the population's.
        train, test: examples of the files.
        stack: whether members may be stacked.

    Raises:
        PlanError: see :func:`find_parts`, :class:`Initialiser` and :func:`encoded`.
    """
    weights = weights_hash(lm.model)
    found = encoded(lm, train), encoded(lm, test, settings.samples)
    parts = find_parts(lm.model, settings.reinit)
    made = _prepared(lm, name, settings, parts, found, weights)
    Initialiser(lm.model, parts)
    made.base = _way(made, stack=stack)
    return made


def prepare(base: Base, settings: BaseSettings, train: Path, test: Path, device: str) -> Prepared:
    """A base as it was planned, loaded anew where it is trained.

    Raises:
        RunError: the base or a file has other content than when it was planned.
        PlanError: they cannot be read.
    """
    lm = loaded(base.source, base.revision, device)
    if (weights := weights_hash(lm.model)) != base.weights:
        raise RunError(
            f"{base.source}: its weights are other ones ({weights}) than when the population was "
            f"planned ({base.weights}); put those back, or choose another OUT"
        )
    examples = read_examples(train), read_examples(test)
    for path, has, expected in zip(
        (train, test), examples, (settings.train, settings.test), strict=True
    ):
        if content_hash(has) != expected:
            raise RunError(f"{path} has changed since the population was planned")
    found = encoded(lm, examples[0]), encoded(lm, examples[1], settings.samples)
    made = _prepared(lm, base.name, settings, find_parts(lm.model, settings.reinit), found, weights)
    made.base = base
    return made


def _prepared(
    lm: CausalLM,
    name: str,
    settings: BaseSettings,
    parts: Parts,
    found: tuple[EncodedProbes, EncodedProbes],
    weights: str,
) -> Prepared:
    """With members one after the other, until :func:`_way` knows better."""
    model = lm.model
    parameters = dict(model.named_parameters())
    trained = list(parameters) if settings.trained == "all" else list(parts.names)
    trained.sort(key=lambda n: parameters[n].dim() < 2)  # stable
    for key, parameter in parameters.items():
        parameter.requires_grad_(key in set(trained))
    decayed = sum(parameters[n].numel() for n in trained if parameters[n].dim() >= 2)
    rows = train_rows(found[0]), scored_rows(found[1])
    modules = anatomy(model, parts)
    head = modules.head.get_parameter("weight")
    _check_width(model, modules, lm.name, sample_rows(rows[1]))
    base = Base(
        name=name,
        source=lm.name,
        revision=lm.revision,
        weights=weights,
        parameters=sum(p.numel() for p in parameters.values()),
        trained=sum(parameters[n].numel() for n in trained),
        decayed=decayed,
        parts=parts.names,
        untied=parts.untied,
        with_embedding=any(parameters[name] is head for name in parts.names)
        and not any(name.startswith(f"{parts.head}.") for name in parts.names),
        way=IN_TURN,
        reason="",
        answers_only=False,
        layers=len(parts.blocks),
        width=head.shape[-1],
        vocabulary=head.shape[0],
        tail=len(parts.blocks),
        longest=int(max(rows[0].lengths.max(), rows[1].lengths.max())) + 1,
        answer=max(rows[0].at.shape[1], rows[1].at.shape[1]),
        examples=(len(found[0]), len(found[1])),
        skipped=(found[0].skipped, found[1].skipped),
        alike=alike(found[1]),
        rows=(len(rows[0]), len(rows[1])),
        tokens=(int(rows[0].lengths.sum()), int(rows[1].lengths.sum())),
        data=rows[1].data,
        chance=sum(1.0 / size for size in rows[1].sizes) / len(rows[1].sizes),
    )
    return Prepared(base, settings, model, modules, parts, *rows, tuple(trained), decayed)


def _check_width(model: nn.Module, modules: Anatomy, name: str, rows: Rows) -> None:
    """Refuse a model with a projection between its blocks and its head.

    Raises:
        PlanError: they have different widths.
    """
    on = next(model.parameters()).device
    every = torch.arange(len(rows), device="cpu")
    with torch.no_grad():
        block, final, _ = logits_at(model, modules, rows.ids(every).to(on), rows.at.to(on))
    if block.shape[-1] != final.shape[-1]:
        raise PlanError(
            f"--base {name}: its blocks have states of {block.shape[-1]} numbers and its head "
            f"reads {final.shape[-1]}: models that project in between are not supported"
        )


def _way(made: Prepared, *, stack: bool) -> Base:
    """The base with how its members are trained."""
    base = made.base
    if made.settings.trained == "all" or not stack:
        return base
    if all(name.startswith(f"{made.parts.head}.") for name in made.trained):
        head = made.anatomy.head
        if isinstance(head, nn.Linear) and _is_head_alone(made):
            return replace(base, way=STACKED_HEAD, tail=0, answers_only=True)
    start = _first_block(made)
    if start is None:
        early = next(n for n in made.trained if not _in_tail(made, n))
        return replace(base, reason=f"{early} comes before the blocks")
    tail = Tail(made.model, made.anatomy, start, made.trained)
    found, why = checked(tail, sample_rows(made.train))
    if found is None:
        return replace(base, reason=why)
    blocks = base.layers - start
    return replace(base, way=STACKED_TAIL, tail=blocks, answers_only=found.answers_only)


def _is_head_alone(made: Prepared) -> bool:
    """Whether logits are the head's product with the state it reads, and nothing else."""
    rows = sample_rows(made.train)
    every = torch.arange(len(rows), device="cpu")
    with torch.no_grad():
        ids, at = rows.ids(every).to(made.device), rows.at.to(made.device)
        _, final, logits = logits_at(made.model, made.anatomy, ids, at)
        own = made.anatomy.head(final)
    return torch.allclose(own, logits, rtol=1e-4, atol=1e-4)


def _in_tail(made: Prepared, name: str) -> bool:
    """Whether a parameter belongs to a block, or to what comes after the blocks, and nowhere else.

    An embedding that a head is tied to is among the head's, and the trunk's too.
    """
    if any(name.startswith(f"{block}.") for block in made.parts.blocks):
        return True
    parameter, after = made.model.get_parameter(name), (*made.anatomy.posts, made.anatomy.head)
    inside = {id(module) for each in after for module in each.modules()}
    owners = [m for m in made.model.modules() if any(p is parameter for p in _own(m))]
    return all(id(module) in inside for module in owners)


def _own(module: nn.Module) -> list[nn.Parameter]:
    """Parameters that a module holds itself."""
    return [p for p in module._parameters.values() if p is not None]


def _first_block(made: Prepared) -> int | None:
    """Index of the first block of the tail: of the first that has trained parameters.

    The last one where only what follows the blocks has; None where something before them has.
    """
    if not all(_in_tail(made, name) for name in made.trained):
        return None
    found = [
        i
        for i, block in enumerate(made.parts.blocks)
        if any(name.startswith(f"{block}.") for name in made.trained)
    ]
    return min(found, default=made.base.layers - 1)
