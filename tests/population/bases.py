"""Tiny bases and examples of multiple choice, made on the spot."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from geomfast.lm.causal_lm import CausalLM
from geomfast.lm.probe_sets import ProbeItem, ProbeSet
from geomfast.population.base.examples import content_hash, read_examples
from geomfast.population.base.job import BaseGroupJob
from geomfast.population.base.plan import BaseSettings
from geomfast.population.base.prepared import Prepared, described, loaded
from geomfast.runs.groups import Group
from tests.lm.language_models import WORDS, language_model, save

#: Every third of them follows one of these words.
CUES, CHOICES = ("one", "two", "three"), ("red", "blue", "four five")

SETTINGS = BaseSettings(
    reinit=("last-block", "head"),
    trained="reinitialised",
    task="words",
    train="",
    test="",
    steps=12,
    batch_size=4,
    learning_rate=1e-2,
    weight_decay=0.01,
    samples=None,
    checkpoints=11,
)


def items(count: int, seed: int) -> tuple[ProbeItem, ...]:
    """Prompts of several lengths, whose last word says which choice is right."""
    draw = random.Random(seed)
    made = []
    for _ in range(count):
        words = [draw.choice(WORDS) for _ in range(draw.randint(1, 6))]
        right = draw.randrange(3)
        made.append(ProbeItem(" ".join([*words, CUES[right]]), CHOICES, right))
    return tuple(made)


TRAIN, TEST = ProbeSet("train", items(30, 0)), ProbeSet("test", items(20, 1))


def prepared(family: str = "GPT2", lm: CausalLM | None = None, **changes: Any) -> Prepared:
    """A base ready to be trained, of this family, with tiny settings changed."""
    stack = changes.pop("stack", True)
    settings = replace(SETTINGS, **changes)
    return described(lm or language_model(family), "tiny", settings, TRAIN, TEST, stack=stack)


def write_examples(path: Path, examples: ProbeSet) -> Path:
    """The JSONL file of some examples, every second answer as its text."""
    lines = []
    for number, item in enumerate(examples.items):
        answer = item.choices[item.answer] if number % 2 else item.answer
        row = {"prompt": item.prompt, "choices": list(item.choices), "answer": answer}
        lines.append(json.dumps(row))
    path.write_text("\n".join(lines) + "\n")
    return path


def files(folder: Path) -> tuple[Path, Path]:
    """Files of the examples."""
    folder.mkdir(parents=True, exist_ok=True)
    return (
        write_examples(folder / "train.jsonl", TRAIN),
        write_examples(folder / "words.jsonl", TEST),
    )


def job(out: Path, *, seeds: tuple[int, ...] = (1, 0, 5), together: int = 2, **changes: Any):
    """A group of members of a base that is saved beside OUT."""
    base = out.parent / "base"
    if not base.exists():
        save(base, changes.pop("family", "GPT2"))
    train, test = files(out.parent)
    stack = changes.pop("stack", True)
    sets = read_examples(train), read_examples(test)
    hashes = {"train": content_hash(sets[0]), "test": content_hash(sets[1])}
    settings = replace(SETTINGS, **hashes, **changes)
    made = described(loaded(str(base), None, "cpu"), "base", settings, *sets, stack=stack)
    group = Group("words-base-seeds1-5", "base", seeds, together)
    return BaseGroupJob(group, made.base, settings, train, test, out, "cpu", 1)
