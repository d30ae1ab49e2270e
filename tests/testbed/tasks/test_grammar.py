"""Grammar tasks against a parser of their own: which rule gives which answer."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from geomfast.testbed.tasks import GRAMMAR_TASKS
from geomfast.testbed.tasks.grammar import GrammarTask
from geomfast.testbed.tasks.lengths import TRAINING
from geomfast.testbed.training.grammar_batches import GrammarBatches

DETERMINERS = ["the", "some", "my", "your", "our", "her"]
PREPOSITIONS = ["around", "near", "with", "upon", "by", "behind", "above", "below"]
RELATIVE = ["who", "that"]
AUXILIARIES = {"does": 0, "doesn't": 0, "do": 1, "don't": 1}
SINGULAR = "badger beaver crane falcon ferret gecko heron lizard otter panda rabbit turtle weasel"
NOUNS = {noun: 0 for noun in SINGULAR.split()} | {f"{noun}s": 1 for noun in SINGULAR.split()}
ALONE = ["sing", "sleep", "smile", "swim", "wait", "work"]
WITH_OBJECT = ["admire", "amuse", "follow", "greet", "help", "watch"]
IRREGULAR = {"sang": "sing", "slept": "sleep", "swam": "swim"}


@dataclass
class Parsed:
    """Where the main verb (or auxiliary) is, the numbers it could agree with, all verbs."""

    subject: int
    main: int
    verbs: list[tuple[int, int]]


class Parser:
    """Recursive descent over the words of a sentence in the past tense, or with auxiliaries."""

    def __init__(self, words: list[str], auxiliaries: bool) -> None:
        self.words, self.at, self.auxiliaries = words, 0, auxiliaries
        self.verbs: list[tuple[int, int]] = []  # place, number it agrees with

    def take(self, of) -> str:
        word = self.words[self.at]
        assert word in of, f"{word!r} at {self.at} of {' '.join(self.words)}"
        self.at += 1
        return word

    def next_in(self, of) -> bool:
        return self.at < len(self.words) and self.words[self.at] in of

    def noun(self) -> int:
        self.take(DETERMINERS)
        return NOUNS[self.take(NOUNS)]

    def verb(self, number: int) -> str:
        """An auxiliary and a bare verb, or a verb in the past tense; its bare form."""
        self.verbs.append((self.at, number))
        if self.auxiliaries:
            assert AUXILIARIES[self.take(AUXILIARIES)] == number
            return self.take([*ALONE, *WITH_OBJECT])
        word = self.words[self.at]
        self.at += 1
        bare = IRREGULAR.get(word) or (word[:-2] if word[:-2] in ALONE + WITH_OBJECT else word[:-1])
        assert bare in ALONE + WITH_OBJECT, word
        return bare

    def phrase(self) -> int:
        number = self.noun()
        if self.next_in(PREPOSITIONS):
            self.take(PREPOSITIONS)
            self.noun()
        elif self.next_in(RELATIVE):
            self.take(RELATIVE)
            if self.next_in(DETERMINERS):
                assert self.verb(self.noun()) in WITH_OBJECT
            elif self.verb(number) in WITH_OBJECT:
                self.noun()
        return number

    def sentence(self) -> Parsed:
        subject = self.phrase()
        main = self.at
        if self.verb(subject) in WITH_OBJECT:
            self.phrase()
        assert self.at == len(self.words), "words are left over"
        return Parsed(subject, main, self.verbs)


def question(words: list[str], *, linear: bool) -> list[str]:
    parsed = Parser(words, auxiliaries=True).sentence()
    moved = next(i for i, w in enumerate(words) if w in AUXILIARIES) if linear else parsed.main
    return [words[moved], *words[:moved], *words[moved + 1 :]]


def present(words: list[str], *, linear: bool) -> list[str]:
    parsed = Parser(words, auxiliaries=False).sentence()
    made = list(words)
    for place, number in parsed.verbs:
        if linear:
            number = next(NOUNS[w] for w in reversed(words[:place]) if w in NOUNS)
        bare = Parser([words[place]], auxiliaries=False).verb(0)
        made[place] = bare + ("" if number else "es" if bare.endswith("ch") else "s")
    return made


RULES = {"question-formation": (question, "[question]"), "tense-inflection": (present, "[present]")}


def split(task: GrammarTask, ids) -> tuple[list[str], str, list[str], str]:
    words = task.text(ids).split()
    stop = words.index(".")
    assert words[-1] == "[eos]"
    return words[:stop], words[stop + 1], words[stop + 2 : -2], words[-2]


def drawn(task: GrammarTask, length: int, count: int, mixture: float, embedded: float = 0.5):
    numbers = np.arange(count)[:, None]
    ids, _, _ = task.draw(
        TRAINING,
        3,
        np.full_like(numbers, 7),
        numbers,
        length,
        task.places(length),
        mixture=mixture,
        embedded=embedded,
    )
    return ids


def told_apart(name: str, sentence: list[str]) -> bool:
    rule = RULES[name][0]
    return rule(sentence, linear=True) != rule(sentence, linear=False)


@pytest.mark.parametrize("name", list(GRAMMAR_TASKS))
def test_rules_agree_on_all_that_is_trained_and_differ_on_all_that_is_tested(name: str) -> None:
    task, (rule, marker) = GRAMMAR_TASKS[name], RULES[name]
    for length in task.lengths:
        asked = 0
        for ids in drawn(task, length, 10_000 // len(task.lengths), mixture=0.0):
            sentence, ask, answer, end = split(task, ids)
            assert len(sentence) == len(answer) == length and len(ids) == task.tokens(length)
            if ask == "[copy]":
                assert answer == sentence and end == "."
                continue
            asked += 1
            assert ask == marker and answer == rule(sentence, linear=False)
            assert answer == rule(sentence, linear=True)
            assert end == ("?" if name == "question-formation" else ".")
        assert asked / (10_000 // len(task.lengths)) == pytest.approx(0.5, abs=0.03)
        tested = task.diagnostic(length, 10_000 // len(task.lengths), apart=True)
        rows = zip(tested.tokens, tested.decisive, tested.linear, strict=True)
        for ids, place, linear in rows:
            sentence, _, answer, _ = split(task, ids)
            assert answer == rule(sentence, linear=False)
            other = rule(sentence, linear=True)
            differing = [
                i for i, pair in enumerate(zip(answer, other, strict=True)) if len({*pair}) > 1
            ]
            assert differing[0] == place
            assert task.text([linear]) == other[place] != answer[place]
            assert int(ids[tested.answer_start + place]) != linear
        same = task.diagnostic(length, 500, apart=False)
        assert not any(told_apart(name, split(task, ids)[0]) for ids in same.tokens)


@pytest.mark.parametrize("name", list(GRAMMAR_TASKS))
@pytest.mark.parametrize(("mixture", "embedded"), [(0.1, 0.5), (1.0, 0.0), (0.0, 1.0)])
def test_shares_are_what_they_say(name: str, mixture: float, embedded: float) -> None:
    task = GRAMMAR_TASKS[name]
    apart: dict[bool, list[bool]] = {True: [], False: []}
    for length in task.lengths:
        for ids in drawn(task, length, 3000 // len(task.lengths), mixture, embedded):
            sentence, ask, _, _ = split(task, ids)
            apart[ask != "[copy]"].append(told_apart(name, sentence))
    for asked, share in ((True, mixture), (False, embedded)):
        assert np.mean(apart[asked]) == pytest.approx(share, abs=0.05 if 0 < share < 1 else 0.0)


@pytest.mark.parametrize("name", list(GRAMMAR_TASKS))
def test_batches_are_the_same_examples_alone_and_among_others(name: str) -> None:
    task = GRAMMAR_TASKS[name]
    batches = GrammarBatches(task, 0.2, 0.5, 13)
    step = torch.tensor([5])
    together = batches.draw(torch.tensor([4, 9]), step)
    alone = batches.draw(torch.tensor([9]), step)
    for a, b in zip(together.buckets, alone.buckets, strict=True):
        assert torch.equal(a[1:], b) and not torch.equal(a[0], b[0])
    assert sum(bucket.shape[1] for bucket in alone.buckets) == 13
    assert float(batches.weights.sum()) == pytest.approx(1.0)
    assert int(alone.targets.max()) < task.vocabulary
    # What is read are the answers, each to its [eos].
    flat = torch.cat([b.flatten(1) for b in alone.buckets], 1)
    assert flat.shape[1] == batches.tokens == batches.processed
    assert int((alone.targets == 2).sum()) == 13
    assert not torch.equal(alone.targets, batches.draw(torch.tensor([9]), step + 1).targets)
    assert batches.tokens_until(3) == 3 * batches.tokens
    # numpy arrays and torch tensors are written by the same lines.
    length, rows, _ = batches._parts[-1]
    ids, _, _ = task.draw(
        TRAINING,
        9,
        np.full(rows.shape, 5),
        rows.numpy(),
        length,
        task.places(length),
        mixture=0.2,
        embedded=0.5,
    )
    np.testing.assert_array_equal(ids[:, :-1], alone.buckets[-1][0].numpy())


def test_bad_shares_and_batches_are_refused() -> None:
    task = GRAMMAR_TASKS["tense-inflection"]
    with pytest.raises(ValueError, match=r"mixture = 1\.5 is not a share"):
        GrammarBatches(task, 1.5, 0.5, 8)
    with pytest.raises(ValueError, match="sentences of 4 lengths"):
        GrammarBatches(task, 0.5, 0.5, 3)
