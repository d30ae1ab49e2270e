"""Specification of a measure: the one place for everything that computes or shows it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, is_dataclass
from enum import StrEnum
from typing import Any

#: What a model does with its samples: taken with the measures, and recorded by names of its own.
BEHAVIOUR = "behaviour"
#: What a value that could not be taken says where others have their backend. One stands for all
#: layers, which nobody knows where the pass that gives them failed.
FAILED = "failed"
#: Okabe and Ito's palette, which readers with any colour vision can tell apart.
BLUE, ORANGE, GREEN, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9"


class Need(StrEnum):
    """Input of a measure; decides which work it shares and how it is called.

    ``compute`` of a measure of

    - activations: ``(x, settings) -> values``, x (..., N, d) and one value for each of (...), a
      float64 tensor; called once for all layers and sets of samples of one shape;
    - spectra: ``(spectrum, settings) -> values``, a :class:`geomfast.estimators.spectra.Spectrum`
      of the same matrices, of which measures share one; of activations less their mean over
      samples where settings have a true ``center``;
    - layers: ``(labels, states, settings, earlier)``, the layers' names and (N, d) activations of
      one model, and a :class:`geomfast.measures.subject.Earlier`, or None where no checkpoint
      follows another, to (layer index or None, column, value, stderr) for every value;
    - answers: ``(activations, answers, groups, right, settings)``, (layers, N, d) at the place that
      predicts the answer, (N,) each: class of the answer, number of the input, 1 where the model
      itself is right; to the same as of layers;
    - classes: ``(activations, answers, classifier, settings)``, likewise, with the weights (K, d)
      that the final state is read by, a row for every class, or None; to the same;
    - gradients: ``(exact, first, settings)``, two
      :class:`geomfast.estimators.gradients.GradientRanks` of one pass, to (column, value, stderr);
    - curvature: ``(model, loss_fn, data, settings, start)`` to a list of (column, value, stderr),
      and vectors for the next checkpoint to start from, or None; a setting ``lr`` that is None is
      the learning rate of the training, where that is known;
    - chains: ``(model, loss_fn, data, settings, **how)`` to (column, value, stderr).

    Values of activations and of spectra may also be a mapping from columns to values, or to values
    and standard errors. A fourth item after stderr is a verdict: in a few words how far to believe
    the value.
    """

    ACTIVATIONS = "activations"
    SPECTRA = "singular values of activations"
    LAYERS = "activations of all layers"
    ANSWERS = "activations and answers"
    CLASSES = "activations and classes"
    GRADIENTS = "per-sample gradients"
    CURVATURE = "products with the Hessian"
    CHAINS = "Langevin chains"


#: What a forward pass alone gives; and what needs an answer of every sample, too.
OF_ACTIVATIONS = (Need.ACTIVATIONS, Need.SPECTRA, Need.LAYERS)
OF_ANSWERS = (Need.ANSWERS, Need.CLASSES)


@dataclass(frozen=True)
class Column:
    """A name that records have values of a measure under.

    Attributes:
        name: in the column ``measure``.
        low, high: that a value can have; NaN stands for none.
    """

    name: str
    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True)
class MeasureSpec:
    """A measure.

    Attributes:
        name: of its records and on the command line; letters, digits and underscores.
        summary: half a sentence for help texts.
        unit: of its value.
        settings: a dataclass whose fields are its settings, with the only defaults there are.
        need: what it is computed from.
        columns: that it writes, its own name first where it has a value of that name.
        compute: see :class:`Need`.
        label: in figures and tables.
        colour: in figures, as #rrggbb; hatch: of its bars.
        logarithmic: whether it changes by factors, so that its logarithm is analysed and drawn.
        per_layer: whether there is a value for every layer.
        expensive: whether it takes many passes over the samples.
        core: whether it is among those taken where none is named.
        labelled: whether every sample needs an answer, its class.
        meaning: of a value in a sentence, with {value}, {stderr} and {n} to be filled in.
        judged: (value, stderr, n) to a verdict, where the values themselves have none.
        ran_on: of activations, a parameter or a model: the backend that computes the values.
        products: of the Hessian that it takes with its settings, where that is known beforehand.
        shares: the measure whose computation it takes, where both are taken with the same settings.
        vectors: a name of its own for the vectors it has found, where the next checkpoint is to
            have them beside those that all searches start from.
        order: in which measures are listed and taken.
        plugin: the distribution that it is from; empty for geomfast's own.
    """

    name: str
    summary: str
    unit: str
    settings: type
    need: Need
    columns: tuple[Column, ...]
    compute: Callable[..., Any]
    label: str
    colour: str = BLUE
    hatch: str = ""
    logarithmic: bool = False
    per_layer: bool = False
    expensive: bool = False
    core: bool = True
    labelled: bool = False
    meaning: str = ""
    judged: Callable[[float, float, int], str] | None = None
    ran_on: Callable[[Any], str] = lambda x: "torch"
    products: Callable[[Any], int | None] | None = None
    shares: str = ""
    vectors: str = ""
    order: int = 1000
    plugin: str = ""

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and self.name.isidentifier() and self.name.isascii()):
            raise ValueError(f"name of a measure: letters, digits and _, not {self.name!r:.60}")
        if not (isinstance(self.settings, type) and is_dataclass(self.settings)):
            raise TypeError(f"{self.name}: settings must be a dataclass, not {self.settings!r:.60}")
        if not callable(self.compute):
            raise TypeError(f"{self.name}: compute must be a function, not {self.compute!r:.60}")
        if self.need in OF_ANSWERS:
            object.__setattr__(self, "labelled", True)
        names = [column.name for column in self.columns]
        strange = [n for n in names if n != self.name and not n.startswith(f"{self.name}_")]
        if not names or strange:
            raise ValueError(
                f"{self.name}: its columns must be called {self.name} or {self.name}_..., not "
                f"{(strange or names)!r:.80}"
            )

    @property
    def compares(self) -> bool:
        """Whether values depend on what earlier checkpoints have left."""
        return self.need is Need.LAYERS or bool(self.vectors)

    @property
    def defaults(self) -> dict[str, Any]:
        """The measure's default settings."""
        return asdict(self.settings())

    def asked(self, **changes: Any) -> Any:
        """The measure's settings, with these in place of the defaults.

        Raises:
            TypeError: a setting that it has not; the message lists those it has.
            TypeError, ValueError: what the settings themselves refuse.
        """
        known = [field.name for field in fields(self.settings)]
        if unknown := [name for name in changes if name not in known]:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise TypeError(f"{self.name} has no setting {unknown[0]!r:.60}; {has}")
        try:
            return self.settings(**changes)
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"{self.name}: {error}") from error


def enough_samples(value: float, stderr: float, n: int) -> str:
    """Verdict on an effective rank, which is at most the number of samples."""
    if math.isnan(value):
        return "no value: activations or gradients are zero"
    if not value > 0.5 * n:
        return "ok"
    return f"bounded by the {n} samples: more of them would raise it"


def unless_missing(reason: str) -> Callable[[float, float, int], str]:
    """Verdict on values that are there or, for one reason, not."""
    return lambda value, stderr, n: f"no value: {reason}" if math.isnan(value) else "ok"


def of_gradients(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a measure of gradients as records keep them."""
    some = {"first entries": settings["first_entries"]} if "first_entries" in settings else {}
    rest = {name: value for name, value in settings.items() if name != "first_entries"}
    return {"labels": "data", **some, **rest}


def owns(measure: str, record: str) -> bool:
    """Whether a measure writes records of this name: llc_rhat for llc."""
    return record == measure or record.startswith(f"{measure}_")
