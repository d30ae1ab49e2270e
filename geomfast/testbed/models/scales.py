"""The six model scales of arXiv:2602.15997 (v4), and the peak learning rate each trains with.

The paper gives the ends of the range; the middle sizes and the learning rates are our choice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

from geomfast.testbed.tasks import LEVELS, TASKS
from geomfast.testbed.tasks.vocabulary import CONTEXT, VOCABULARY_SIZE


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
        context: rows of the position table.
    """

    name: str
    layers: int
    d_model: int
    heads: int
    learning_rate: float
    vocabulary: int = VOCABULARY_SIZE
    context: int = CONTEXT

    @property
    def parameters(self) -> int:
        """Exact number of trainable parameters, tied embedding counted once."""
        d = self.d_model
        block = 12 * d * d + 13 * d  # attention 4d^2+4d, MLP 8d^2+5d, two LayerNorms 4d
        return (self.vocabulary + self.context) * d + self.layers * block + 2 * d


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
