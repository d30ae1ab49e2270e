"""Checks of settings, which bring each into its own type; no torch, as help texts read settings."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

#: Takes a setting's name and value, and gives the value in its own type.
Rule = Callable[[str, Any], Any]


def whole(name: str, value: Any, least: int | None = 0) -> int:
    """A whole number, also one of NumPy or torch.

    Args:
        name: of the setting, for the message.
        value: given for it.
        least: the smallest allowed; None for no bound.

    Raises:
        TypeError: it is none.
        ValueError: it is too small.
    """
    wanted = "a whole number" if least is None else f"a whole number, {least} or more"
    try:
        # True is an integer of Python's, but no number of anything.
        found = None if isinstance(value, bool) else operator.index(value)
    except (TypeError, RuntimeError):
        found = None
    if found is None:
        raise TypeError(f"{name} must be {wanted}, not {value!r}")
    if least is not None and found < least:
        raise ValueError(f"{name} must be {wanted}, not {found}")
    return found


def real(name: str, value: Any, *, zero: bool) -> float:
    """A finite number.

    Args:
        name: of the setting, for the message.
        value: given for it.
        zero: whether 0 is allowed; what is smaller never is.

    Raises:
        TypeError: it is no number.
        ValueError: it is not finite, or too small.
    """
    wanted = f"a finite number, {'0 or more' if zero else 'above 0'}"
    try:
        found = None if isinstance(value, (bool, str, bytes)) else float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        found = None
    if found is None:
        raise TypeError(f"{name} must be {wanted}, not {value!r}")
    if not math.isfinite(found) or found < 0 or (found == 0 and not zero):
        raise ValueError(f"{name} must be {wanted}, not {value!r}")
    return found


def positive(name: str, value: Any) -> float:
    return real(name, value, zero=False)


def not_negative(name: str, value: Any) -> float:
    return real(name, value, zero=True)


def share(name: str, value: Any) -> float:
    if (found := not_negative(name, value)) >= 1.0:
        raise ValueError(f"{name} must be less than 1, not {value!r}")
    return found


def or_word(word: str, rule: Rule) -> Rule:
    """A number by the rule, or one word in its place."""

    def checked(name: str, value: Any) -> Any:
        if isinstance(value, str) and value == word:
            return value
        try:
            return rule(name, value)
        except TypeError as error:
            raise TypeError(f"{error}; or {word!r}") from None

    return checked


def truth(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return value


def seed(name: str, value: Any) -> int:
    if (found := whole(name, value)) >= 1 << 64:
        raise ValueError(f"{name} must be a whole number of 64 bits, not {found}")
    return found


def at_least(least: int) -> Rule:
    return lambda name, value: whole(name, value, least)


def or_none(rule: Rule) -> Rule:
    return lambda name, value: None if value is None else rule(name, value)


def check(settings: Any, **rules: Rule) -> None:
    """Brings fields of a frozen dataclass into their own types, by a rule each.

    Raises:
        TypeError, ValueError: a field that cannot be right; the message names it.
    """
    for name, rule in rules.items():
        object.__setattr__(settings, name, rule(name, getattr(settings, name)))
