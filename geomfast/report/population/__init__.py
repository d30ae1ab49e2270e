"""The report of populations: how the outcomes of many seeds are distributed, scale by scale."""

from geomfast.report.population.assemble import build
from geomfast.report.population.data import is_population
from geomfast.report.population.tables import terminal

__all__ = ["build", "is_population", "terminal"]
