"""The report of populations: distributions over many seeds at every scale."""

from geomfast.report.population.assemble import build
from geomfast.report.population.data import is_population
from geomfast.report.population.tables import terminal

__all__ = ["build", "is_population", "terminal"]
