"""AdamW steps of many members at once, each with a gradient clipped by its own norm."""

from geomfast.kernels.adamw.op import OP, adamw_step
from geomfast.kernels.adamw.rule import AdamW, AdamWState

__all__ = ["OP", "AdamW", "AdamWState", "adamw_step"]
