"""Words of the small English that grammar tasks are written in. No torch here."""

from __future__ import annotations

DETERMINERS = ("the", "some", "my", "your", "our", "her")
NOUNS = ("badger", "beaver", "crane", "falcon", "ferret", "gecko", "heron")
NOUNS += ("lizard", "otter", "panda", "rabbit", "turtle", "weasel")
PREPOSITIONS = ("around", "near", "with", "upon", "by", "behind", "above", "below")
RELATIVE = ("who", "that")
#: Positive, then negative; each singular, then plural.
AUXILIARIES = ("does", "do", "doesn't", "don't")
#: Verbs as they stand after an auxiliary, and in the plural of the present tense.
INTRANSITIVE = ("sing", "sleep", "smile", "swim", "wait", "work")
TRANSITIVE = ("admire", "amuse", "follow", "greet", "help", "watch")
_PAST = {"sing": "sang", "sleep": "slept", "swim": "swam"}


def plural(noun: str) -> str:
    """Its plural."""
    return f"{noun}s"


def present(verb: str, *, singular: bool) -> str:
    """The form of the present tense, third person."""
    if not singular:
        return verb
    return f"{verb}es" if verb.endswith("ch") else f"{verb}s"


def past(verb: str) -> str:
    """The form of the past tense."""
    return _PAST.get(verb) or (f"{verb}d" if verb.endswith("e") else f"{verb}ed")
