"""Report on benchmarks of language models over training, alone or beside their geometry."""

from geomfast.report.evaluations.assemble import build, has_behaviour
from geomfast.report.evaluations.tables import terminal

__all__ = ["build", "has_behaviour", "terminal"]
