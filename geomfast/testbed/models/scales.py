"""The six model scales of arXiv:2602.15997 (v4), and the peak learning rate each trains with.

The paper gives the ends of the range; the middle sizes and the learning rates are our choice.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

from geomfast.testbed.tasks import LEVELS, TASKS
from geomfast.testbed.tasks.vocabulary import CONTEXT, VOCABULARY_SIZE

#: How a model knows where in its row a token is: by a learned table; by nothing but which tokens it
#: may not see; by turned queries and keys (RoPE); by what distance takes off the scores (ALiBi).
POSITIONAL_ENCODINGS = ("learned", "none", "rotary", "alibi")


@dataclass(frozen=True)
class Scale:
    """Width and depth of a model.

    Attributes:
        name: nano ... xlarge.
        layers: transformer blocks.
        d_model: width of the residual stream.
        heads: attention heads.
        learning_rate: peak of the schedule.
        vocabulary: rows of the (tied) token embedding.
        context: longest row; rows of the position table, where there is one.
        positions: one of :data:`POSITIONAL_ENCODINGS`.

    Raises:
        ValueError: there is no such encoding, or none for heads of that width.
    """

    name: str
    layers: int
    d_model: int
    heads: int
    learning_rate: float
    vocabulary: int = VOCABULARY_SIZE
    context: int = CONTEXT
    positions: str = "learned"

    def __post_init__(self) -> None:
        if self.positions not in POSITIONAL_ENCODINGS:
            there = ", ".join(POSITIONAL_ENCODINGS)
            raise ValueError(f"positions must be one of {there}, not {self.positions!r}")
        width = self.d_model // self.heads
        if self.positions == "rotary" and width % 2:
            raise ValueError(
                f"rotary positions turn pairs of numbers: a head's width must be even, not {width}"
            )

    @property
    def parameters(self) -> int:
        """Exact number of trainable parameters, tied embedding counted once."""
        d = self.d_model
        block = 12 * d * d + 13 * d  # attention 4d^2+4d, MLP 8d^2+5d, two LayerNorms 4d
        rows = self.vocabulary + (self.context if self.positions == "learned" else 0)
        return rows * d + self.layers * block + 2 * d


def scale_facts(scale: Scale) -> dict[str, Any]:
    """A scale's fields by name, as identities and settings have them.

    Without the encoding of positions where it is learned: what was begun before there were others
    is resumed.
    """
    facts = asdict(scale)
    if scale.positions == "learned":
        del facts["positions"]
    return facts


SCALES: dict[str, Scale] = {
    scale.name: scale
    for scale in (
        Scale("nano", 2, 128, 4, 8e-4),
        Scale("micro", 4, 256, 4, 3e-4),
        Scale("small", 6, 384, 6, 3e-4),
        Scale("medium", 8, 512, 8, 3e-4),
        Scale("large", 12, 768, 12, 2e-4),
        Scale("xlarge", 12, 1024, 16, 1.5e-4),
    )
}


@cache
def scale_for(name: str, tasks: tuple[str, ...]) -> Scale:
    """A scale with the embeddings that these tasks need.

    The paper's eight need what every scale has, so that nano has its 404,992 parameters; a task
    with tokens of its own, or with examples beyond 40 positions, adds rows.
    """
    asked = [TASKS[task] for task in tasks]
    vocabulary = max((task.vocabulary for task in asked), default=VOCABULARY_SIZE)
    longest = max((task.length(level) for task in asked for level in LEVELS), default=CONTEXT)
    return replace(SCALES[name], vocabulary=vocabulary, context=max(CONTEXT, longest))
