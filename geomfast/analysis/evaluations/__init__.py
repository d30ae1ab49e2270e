"""Behaviour of language models on benchmarks: what rises above chance, when, and how suddenly.

A benchmark has some hundred or thousand questions and a rate of blind guesses, so that every value
has an error that an algorithmic task-level with its own generator has not.  What follows asks of
every rise whether that error supports it.
"""

from geomfast.analysis.evaluations.checkpoints import checkpoints_needed
from geomfast.analysis.evaluations.collections import pooled, pooled_chance
from geomfast.analysis.evaluations.counts import leaving_chance
from geomfast.analysis.evaluations.joined import joined
from geomfast.analysis.evaluations.order import order_between, pairs_between
from geomfast.analysis.evaluations.rises import rises
from geomfast.analysis.evaluations.scaling import scaling
from geomfast.analysis.evaluations.suddenness import suddenness

__all__ = [
    "checkpoints_needed",
    "joined",
    "leaving_chance",
    "order_between",
    "pairs_between",
    "pooled",
    "pooled_chance",
    "rises",
    "scaling",
    "suddenness",
]
