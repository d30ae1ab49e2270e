"""What is known of the harness's tasks: the rate of blind guesses, and of which kind they are.

Rates are one over the number of choices where every question has as many, and 0 where an answer is
written freely.  Kinds are those of the seven probe sets of arXiv:2602.15997, so that a task can be
set beside geometry that was measured on probes of its kind.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeVar

#: Kinds of tasks, which are the names of the built-in probe sets (:mod:`geomfast.lm.probe_sets`).
KINDS = ("syntax", "semantics", "arithmetic", "in_context", "facts", "reasoning", "general")

_T = TypeVar("_T")
#: Not those of ten choices, and not those whose name tells another way of asking.
_OTHER = r"(?:pro|prox|redux|flan|cot|continuation|llama|(?:de|es|fr|hi|it|pt|th)_llama)(?:_|$)"
_MMLU = rf"(hendrycksTest-|mmlu_(?!{_OTHER}|.*_generative$)|global_mmlu_\w+_)"
#: Pattern of the name, rate of blind guesses (None where it differs between questions), and kind.
#: The first that fits the whole name counts.
_KNOWN: tuple[tuple[str, float | None, str], ...] = (
    (
        rf"{_MMLU}(abstract_algebra|college_mathematics|elementary_mathematics"
        r"|high_school_mathematics|high_school_statistics)",
        0.25, "arithmetic",
    ),
    (
        rf"{_MMLU}(formal_logic|logical_fallacies|moral_scenarios|college_physics"
        r"|high_school_physics|econometrics)",
        0.25, "reasoning",
    ),
    (rf"{_MMLU}.+", 0.25, "facts"),
    (r"arc_challenge.*", 0.25, "reasoning"),
    (r"arc_easy.*", 0.25, "facts"),
    (r"sciq|openbookqa", 0.25, "facts"),
    (r"medmcqa", 0.25, "facts"),
    (r"pubmedqa", 1 / 3, "facts"),
    (r"triviaqa|nq_open|webqs|truthfulqa_gen|squad.*|drop|coqa", 0.0, "facts"),
    (r"truthfulqa_mc\d?", None, "facts"),
    (r"(leaderboard_)?bbh_.+", None, "reasoning"),
    (r"piqa", 0.5, "reasoning"),
    (r"logiqa2?|race|hellaswag|swag|prost", 0.25, "reasoning"),
    (r"commonsense_qa", 0.2, "reasoning"),
    (r"social_iqa|siqa", 1 / 3, "reasoning"),
    (r"boolq|copa|xcopa.*|xstorycloze.*|storycloze.*|qnli|rte|wnli|mc_taco", 0.5, "reasoning"),
    (r"cb|mnli(_mismatch)?|anli_r\d|xnli.*", 1 / 3, "reasoning"),
    (r"mathqa", 0.2, "arithmetic"),
    (r"gsm8k.*|minerva_math.*|hendrycks_math.*|asdiv|arithmetic_.+", 0.0, "arithmetic"),
    (r"winogrande|wsc(273)?|wic|xwinograd.*", 0.5, "semantics"),
    (r"sst2?|mrpc|qqp|paws.*", 0.5, "semantics"),
    (r"blimp(_.+)?|zhoblimp.*|cola", 0.5, "syntax"),
    (r"lambada.*", 0.0, "general"),
    (r"wikitext|pile_.+|paloma.*|c4", 0.0, "general"),
    (r"anagrams[12]|cycle_letters|random_insertion|reversed_words|unscramble.*", 0.0, "in_context"),
)  # fmt: skip
_PATTERNS = [(re.compile(pattern), chance, kind) for pattern, chance, kind in _KNOWN]
#: Tasks of one collection, of which a report can show the mean.
COLLECTIONS = (
    (re.compile(rf"{_MMLU}.+"), "MMLU"),
    (re.compile(r"blimp_.+"), "BLiMP"),
    (re.compile(r"arithmetic_.+"), "arithmetic"),
    (re.compile(r"(leaderboard_)?bbh_.+"), "BIG-bench Hard"),
)


class Known(NamedTuple):
    """What is known of a task.

    Attributes:
        chance: rate at which blind guesses are right; NaN where that is not known.
        source: where that is from: ``given``, ``choices``, ``table``, ``free answer`` or ``""``.
        kind: one of :data:`KINDS`; ``other`` where none is known.
        collection: that it belongs to; empty for none.
        kind_source: where the kind is from: ``given``, ``table`` or ``""``.
    """

    chance: float
    source: str
    kind: str
    collection: str
    kind_source: str = ""


def known(
    task: str,
    told: float | None = None,
    free: bool = False,
    *,
    chances: Mapping[str, float] | None = None,
    kinds: Mapping[str, str] | None = None,
) -> Known:
    """Rate of blind guesses and kind of a task.

    Args:
        task: its name.
        told: rate that its results tell, of the number of choices; None where they do not.
        free: whether answers are written freely, by its results.
        chances: rates that are given, by name or by pattern with ``*``; they come first.
        kinds: kinds that are given, likewise.
    """
    found = next((row for row in _PATTERNS if row[0].fullmatch(task)), None)
    collection = next((name for pattern, name in COLLECTIONS if pattern.fullmatch(task)), "")
    asked_kind = given(task, kinds or {})
    kind = asked_kind or (found[2] if found else "other")
    kind_source = "given" if asked_kind else "table" if found else ""
    rate, source = math.nan, ""
    asked = given(task, chances or {})
    if asked is not None:
        rate, source = asked, "given"
    elif told is not None:
        rate, source = told, "choices"
    elif found:
        # Of a task with choices, answers that are written freely are still guesses among these.
        rate = math.nan if found[1] is None else found[1]
        source = "" if found[1] is None else "table"
    elif free:
        rate, source = 0.0, "free answer"
    return Known(rate, source, kind, collection, kind_source)


def given(task: str, values: Mapping[str, _T]) -> _T | None:
    """The value of a task by its name, or by the first pattern with ``*`` that fits it."""
    if task in values:
        return values[task]
    return next((value for name, value in values.items() if fitting(name, [task])), None)


def fitting(name: str, tasks: Iterable[str]) -> list[str]:
    """The tasks of a name, in which ``*`` stands for any text."""
    pattern = re.compile(".*".join(map(re.escape, name.split("*"))), re.DOTALL)
    return [task for task in tasks if pattern.fullmatch(task)]
