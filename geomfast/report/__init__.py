"""Claims -> figures, tables and one self-contained HTML page."""

from geomfast.report.assemble import build
from geomfast.report.style import MissingExtra

__all__ = ["MissingExtra", "build"]
