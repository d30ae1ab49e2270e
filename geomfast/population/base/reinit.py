"""Parts of a language model that are re-initialised: by name, per seed as its architecture does.

Transformers' models initialise a module after its children (``_init_weights``), so that a block
may scale projections that lie inside of it. Whole blocks are therefore drawn, and of modules
outside of blocks those that own the parameter; what was not asked for is dropped.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from geomfast.measures.model.states import NoStates, find_blocks
from geomfast.population.base.plan import HEAD, LAST_BLOCK
from geomfast.runs.errors import PlanError

#: Names of modules that a message shows.
_SHOWN = 6


@dataclass(frozen=True)
class Parts:
    """What is re-initialised of a model.

    Attributes:
        names: of the parameters, in the model's order.
        blocks: names of the model's blocks.
        head: name of the output head.
        untied: whether the head was tied to the embedding and has a matrix of its own now.
    """

    names: tuple[str, ...]
    blocks: tuple[str, ...]
    head: str
    untied: bool


def find_parts(model: nn.Module, asked: Sequence[str]) -> Parts:
    """The parameters that names and patterns mean; a head among them is untied from the embedding.

    Args:
        model: a causal language model of transformers; a tied head is given a matrix of its own,
            a copy, where it is to be re-initialised.
        asked: ``last-block``, ``head``, or names of modules, in which ``*`` stands for anything, as
            in :mod:`fnmatch`.

    Raises:
        PlanError: a pattern that no module with weights has, all of the model, or a model whose
            blocks, head or initialisation cannot be found.
    """
    if not callable(getattr(model, "_init_weights", None)):
        raise PlanError(f"{type(model).__name__} does not say how its weights are initialised")
    try:
        blocks = tuple(find_blocks(model))
    except NoStates as error:
        raise PlanError(str(error)) from error
    modules = dict(model.named_modules())
    out = head_of(model)
    head = next((name for name, module in modules.items() if module is out), "")
    own = {LAST_BLOCK: [blocks[-1]], HEAD: [head]}
    chosen: list[str] = []
    for pattern in asked:
        found = own.get(pattern) or [n for n in modules if n and fnmatchcase(n, pattern)]
        found = [name for name in found if any(True for _ in modules[name].parameters())]
        if not found:
            some = [n for n, m in modules.items() if n and any(True for _ in m.parameters())]
            there = ", ".join([*some[:_SHOWN], blocks[-1], head])
            raise PlanError(
                f"--reinit {pattern}: no module of {type(model).__name__} with weights is called "
                f"that; there are {LAST_BLOCK}, {HEAD}, and by name for instance {there}"
            )
        chosen += found
    untied = head in chosen and _tied(model, out)
    if untied:
        weight: Any = out.weight
        out.weight = nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)
        config: Any = model.config
        config.tie_word_embeddings = False
    every = [name for name, _ in model.named_parameters()]
    names = tuple(name for name in every if any(name.startswith(f"{c}.") for c in chosen))
    if len(names) == len(every):
        raise PlanError(
            f"--reinit {','.join(asked)}: that is all of {type(model).__name__}, of which nothing "
            "pre-trained would be left"
        )
    return Parts(names, blocks, head, untied)


def head_of(model: nn.Module) -> nn.Module:
    """The module that makes logits.

    Raises:
        PlanError: the model does not say which.
    """
    tell: Any = getattr(model, "get_output_embeddings", None)
    head = tell() if callable(tell) else None
    if not isinstance(head, nn.Module) or not isinstance(getattr(head, "weight", None), Tensor):
        raise PlanError(f"{type(model).__name__} does not say which module is its output head")
    return head


def _tied(model: nn.Module, head: nn.Module) -> bool:
    """Whether another module has the head's matrix too."""
    return any(
        parameter is head.weight
        for module in model.modules()
        if module is not head
        for parameter in module._parameters.values()
    )


class Initialiser:
    """Draws the re-initialised parameters of a seed; the model stays as it is.

    The numbers of a module depend on the seed and the module's name alone: those of a head are the
    same whether or not a block is re-initialised with it.

    Args:
        model: the model.
        parts: of :func:`find_parts`.

    Raises:
        PlanError: the architecture leaves one of the parameters as it is.
    """

    def __init__(self, model: nn.Module, parts: Parts) -> None:
        self._init: Any = model._init_weights
        self._wanted: dict[str, dict[str, str]] = {}
        for name in parts.names:
            inside = [b for b in parts.blocks if name.startswith(f"{b}.")]
            unit = inside[0] if inside else name.rpartition(".")[0]
            self._wanted.setdefault(unit, {})[name.removeprefix(f"{unit}.")] = name
        self._modules = {unit: _blank(model.get_submodule(unit)) for unit in self._wanted}
        for name, tensor in self.draw(0).items():
            if tensor.isnan().any():
                raise PlanError(
                    f"--reinit: {type(model).__name__} does not initialise {name} itself"
                )

    def draw(self, seed: int) -> dict[str, Tensor]:
        """Parameters by name, float32 on the CPU."""
        drawn: dict[str, Tensor] = {}
        for unit, wanted in self._wanted.items():
            module = self._modules[unit]
            digest = hashlib.sha256(f"{seed} {unit}".encode()).digest()
            with torch.no_grad(), _seeded(int.from_bytes(digest[:8], "little")):
                module.apply(self._init)
            own = dict(module.named_parameters())
            drawn |= {name: own[inner].detach().clone() for inner, name in wanted.items()}
        return drawn


def _blank(module: nn.Module) -> nn.Module:
    """A copy on the CPU whose parameters are NaN, and do not say that they are initialised."""
    made = copy.deepcopy(module).to("cpu")
    for inner in made.modules():
        for name, parameter in inner._parameters.items():
            if parameter is not None:
                blank = torch.full_like(parameter, torch.nan, dtype=torch.float32)
                inner._parameters[name] = nn.Parameter(blank)
    return made


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Within the context, the CPU's own generator goes from this seed; then it is as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
