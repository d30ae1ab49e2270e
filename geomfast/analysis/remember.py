"""Results of analyses kept while one report is made: several of its parts ask for the same ones."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar, cast

import pandas as pd

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])
#: Tables by identity, which holding them keeps theirs, with what is known of each.
_Known = dict[int, tuple[pd.DataFrame, dict[Any, Any]]]
_known: ContextVar[_Known | None] = ContextVar("known", default=None)


@contextmanager
def remembering() -> Iterator[None]:
    """Within the context, a table given to :func:`remember` is analysed once; do not change it."""
    token = _known.set({})
    try:
        yield
    finally:
        _known.reset(token)


def remember(records: pd.DataFrame) -> None:
    """Keep what is found of this table until the end of :func:`remembering`, if that is on."""
    known = _known.get()
    if known is not None:
        known[id(records)] = (records, {})


def once(analysis: FunctionT) -> FunctionT:
    """An analysis of records that is not repeated with the same arguments.

    Args:
        analysis: a function of a table and hashable arguments, or mappings and lists of such.
    """

    @functools.wraps(analysis)
    def asked(records: pd.DataFrame, *arguments: Any, **options: Any) -> Any:
        known = (_known.get() or {}).get(id(records))
        if known is None:
            return analysis(records, *arguments, **options)
        key = (analysis, _hashable(arguments), _hashable(options))
        if key not in known[1]:
            known[1][key] = analysis(records, *arguments, **options)
        found = known[1][key]
        # A caller that adds a column adds it to a table of its own.
        return found.copy() if isinstance(found, pd.DataFrame) else found

    return cast(FunctionT, asked)


def _hashable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return tuple((key, _hashable(each)) for key, each in sorted(value.items()))
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value
