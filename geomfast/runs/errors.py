"""Why work cannot begin, or a run cannot be resumed or finished."""

from __future__ import annotations


class PlanError(Exception):
    """Work that cannot start as asked; the message says what to change."""


class RunError(Exception):
    """A run that cannot be resumed or finished; the message says why."""
