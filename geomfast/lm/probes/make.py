"""Writes the two probe sets that are generated: ``python make.py`` beside their files.

The files are what is read; this says how they came about, and a test sees that it still does.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: Of a set and of each of its kinds.
ITEMS, KIND = 60, 15
_COLOURS = ["red", "blue", "green", "white", "black", "brown", "pink", "grey"]
_NAMES = ["Anna", "Ben", "Carl", "Dora", "Emil", "Fay", "Gus", "Hana"]
_WORDS = [
    *("sun", "key", "map", "cup", "box", "hat", "pen", "car"),
    *("dog", "tree", "road", "book", "fish", "door", "milk", "rain"),
]
_FRUITS = ["apple", "pear", "plum", "cherry", "peach", "lemon", "grape", "melon"]
_ANIMALS = ["horse", "cow", "sheep", "goat", "lion", "tiger", "mouse", "bear"]
_LABELS = ("dax", "wug", "zor", "fep", "kiv", "lom")


def arithmetic() -> list[dict[str, Any]]:
    """Sums of one digit, sums of two digits, differences and products, equally many.

    Wrong choices are near: off by one, two or ten.
    """
    draw = random.Random(1)
    seen: set[str] = set()
    made = []
    for number in range(ITEMS):
        kind = number // KIND
        while True:
            prompt, right = _problem(draw, kind)
            if prompt not in seen:
                break
        seen.add(prompt)
        near = [right + off for off in (-10, -2, -1, 1, 2, 10) if right + off >= 0]
        made.append((prompt, str(right), [str(x) for x in draw.sample(near, 3)]))
    return _placed(draw, made)


def _problem(draw: random.Random, kind: int) -> tuple[str, int]:
    if kind == 0:
        a, b = draw.randint(1, 9), draw.randint(1, 9)
        return f"{a} + {b} =", a + b
    if kind == 1:
        a, b = draw.randint(11, 89), draw.randint(11, 89)
        return f"{a} + {b} =", a + b
    if kind == 2:
        a, b = sorted((draw.randint(2, 60), draw.randint(2, 60)), reverse=True)
        return f"{a} - {b} =", a - b
    a, b = draw.randint(2, 9), draw.randint(2, 12)
    return f"{a} * {b} =", a * b


def in_context() -> list[dict[str, Any]]:
    """What only the prompt can tell: recall, repetition, made-up labels, and reversal."""
    draw = random.Random(2)
    made = []
    for kind in (_recall, _repetition, _label, _reversal):
        seen: set[str] = set()
        while len(seen) < KIND:
            prompt, right, wrong = kind(draw)
            if prompt not in seen:
                seen.add(prompt)
                made.append((prompt, right, wrong))
    return _placed(draw, made)


def _recall(draw: random.Random) -> tuple[str, str, list[str]]:
    """Who has which colour, asked of one of four."""
    names, colours = draw.sample(_NAMES, 4), draw.sample(_COLOURS, 4)
    facts = " ".join(f"{n} has the {c} card." for n, c in zip(names, colours, strict=True))
    at = draw.randrange(3)  # not the last, which repeating would answer
    return f"{facts} {names[at]} has the", colours[at], colours[:at] + colours[at + 1 :]


def _repetition(draw: random.Random) -> tuple[str, str, list[str]]:
    """A list of words once more, as far as one of them."""
    words = draw.sample(_WORDS, 6)
    at = draw.randint(2, 4)
    others = [word for word in words if word not in (words[at], words[at - 1])]
    return (
        f"{' '.join(words)} ; {' '.join(words[:at])}",
        words[at],
        draw.sample(others, 3),
    )


def _label(draw: random.Random) -> tuple[str, str, list[str]]:
    """Fruits have one made-up label and animals the other; the last is a new one."""
    of_fruit, of_animal = draw.sample(_LABELS, 2)
    fruits, animals = draw.sample(_FRUITS, 3), draw.sample(_ANIMALS, 3)
    shown = [(x, of_fruit) for x in fruits[:2]] + [(x, of_animal) for x in animals[:2]]
    draw.shuffle(shown)
    asked, right, wrong = draw.choice(
        [(fruits[2], of_fruit, of_animal), (animals[2], of_animal, of_fruit)]
    )
    lines = [f"{x}: {label}" for x, label in shown]
    return "\n".join([*lines, f"{asked}:"]), right, [wrong]


def _reversal(draw: random.Random) -> tuple[str, str, list[str]]:
    """Pairs of words and the same turned round; the last one's first word is asked for."""
    words = draw.sample(_WORDS, 8)
    pairs = list(zip(words[::2], words[1::2], strict=True))
    lines = [f"{a} {b} -> {b} {a}" for a, b in pairs[:3]]
    a, b = pairs[3]
    others = [pairs[0][1], pairs[1][0]]
    return "\n".join([*lines, f"{a} {b} ->"]), b, [a, *others]


def _placed(draw: random.Random, made: list[tuple[str, str, list[str]]]) -> list[dict[str, Any]]:
    """In random order, the right answer at every position equally often."""
    draw.shuffle(made)
    turns: dict[int, Iterator[int]] = {}
    placed = []
    for prompt, right, wrong in made:
        size = len(wrong) + 1
        at = next(turns.setdefault(size, _turns(draw, size)))
        wrong = draw.sample(wrong, len(wrong))
        placed.append(
            {"prompt": prompt, "choices": [*wrong[:at], right, *wrong[at:]], "answer": at}
        )
    return placed


def _turns(draw: random.Random, size: int) -> Iterator[int]:
    """0 to size - 1 in random order, again and again."""
    while True:
        yield from draw.sample(range(size), size)


def lines(items: list[dict[str, Any]]) -> str:
    """As they are written."""
    return "".join(json.dumps(item) + "\n" for item in items)


if __name__ == "__main__":
    for make in (arithmetic, in_context):
        path = Path(__file__).parent / f"{make.__name__}.jsonl"
        path.write_text(lines(make()), encoding="utf-8")
