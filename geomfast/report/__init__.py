"""Claims -> figures, tables and one self-contained HTML page."""

from geomfast.report.assemble import build
from geomfast.report.extras import MissingExtra

__all__ = ["MissingExtra", "build"]
