"""AdamW steps of many members at once, each with a gradient clipped by its own norm."""

from geomfast.kernels.adamw.op import OP, AdamW, adamw_step, step_on

__all__ = ["OP", "AdamW", "adamw_step", "step_on"]
