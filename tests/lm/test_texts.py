"""Texts of a corpus: what is read of a file and of each text, and what a model makes of it."""

import dataclasses
import json
import math

import pytest
import torch

pytest.importorskip("transformers")

from geomfast.lm import hf
from geomfast.lm import texts as module
from geomfast.lm.probe_sets import ProbesError
from geomfast.lm.texts import TextSet, encode_texts, read_texts, through, token_losses
from geomfast.measures.model.options import ModelSettings
from tests.lm.language_models import CONTEXT, FAMILIES, PROBES, language_model, tokenizer

TEXTS = TextSet(
    "corpus",
    (
        "the cat sat on the mat",
        "one two three four five one two three four five",
        "a dog",
        "the mat was red on the red mat the cat was blue",
        "dog is on a cat",
    ),
    8,
)


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_one_after_the_other(family, monkeypatch):
    """Losses of every token, and states of the last one, as of each text alone."""
    lm = language_model(family)
    texts = encode_texts(lm, TEXTS)
    assert [len(row) for row in texts.rows] == [6, 8, 2, 8, 5]  # two are cut
    losses, last = [], []
    for row in texts.rows:
        with torch.no_grad():
            out = lm.model(input_ids=torch.tensor([row]), output_hidden_states=True)
        logs = out.logits[0, :-1].double().log_softmax(-1)
        losses.append(-logs.gather(1, torch.tensor(row[1:])[:, None])[:, 0])
        last.append([out.hidden_states[1][0, -1], out.hidden_states[2][0, -1]])
    for rows, laid_out in ((1, 64), (2, 2), (64, 64)):
        monkeypatch.setattr(module, "_TREES", laid_out)
        reading = through(lm, texts, "last", batch_size=rows)
        states = reading.states
        assert states is not None and list(states) == ["block 1", "block 2", "final"]
        for i, (first, final) in enumerate(last):
            torch.testing.assert_close(states["block 1"][i], first, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(states["final"][i], final, rtol=1e-4, atol=1e-5)
        sums = torch.stack([-x.sum() for x in losses])
        torch.testing.assert_close(reading.logprobs, sums, rtol=1e-5, atol=1e-5)
        found = token_losses(texts, reading).mean().item()
        assert found == pytest.approx(torch.cat(losses).mean().item(), rel=1e-5)


def test_what_is_recorded():
    lm = language_model()
    texts = encode_texts(lm, TEXTS)
    rows = list(hf.measure_lm(lm, [texts], ["behaviour", "rankme", "alpha_req"]))
    assert [found.measure for _, found in rows[:4]] == ["loss", "rankme", "rankme", "rankme"]
    assert {name for name, _ in rows} == {"corpus"} and all(found.n == 5 for _, found in rows)
    loss = rows[0][1]
    assert loss.value > 0 and loss.stderr > 0
    assert loss.settings == {
        "measure": "behaviour",
        "samples": None,
        "loss": "nats per token, mean",
    }
    # Without behaviour the states are the same; beside probes, both are there.
    alone = list(hf.measure_lm(lm, [texts], ["rankme"]))
    assert [f.value for _, f in alone] == pytest.approx([f.value for _, f in rows[1:4]], rel=1e-6)
    both = list(hf.measure_lm(lm, [hf.encode(lm, PROBES), texts], ["behaviour", "rankme"]))
    assert [f.measure for _, f in both if f.layer == ""][-1] == "loss"
    # Measures of gradients take every token but the first as an answer.
    losses = hf.loss_fn(lm.model, texts.batch)
    tokens = torch.tensor([len(row) - 1 for row in texts.rows])
    torch.testing.assert_close(
        (losses * tokens).double(), -through(lm, texts, None).logprobs, rtol=1e-5, atol=1e-5
    )
    more = list(hf.measure_lm(lm, [texts], ["gradient_norm"]))
    assert all(math.isfinite(found.value) for _, found in more)


def test_the_error_of_a_loss_is_of_texts_and_counts_them_by_their_tokens():
    lm = language_model()
    texts = encode_texts(lm, TEXTS)
    reading = through(lm, texts, None)
    tokens = torch.tensor([len(row) - 1 for row in texts.rows], dtype=torch.float64)
    found = token_losses(texts, reading)
    assert found.mean().item() == pytest.approx((-reading.logprobs.sum() / tokens.sum()).item())
    same = dataclasses.replace(reading, logprobs=-2.0 * tokens)  # a loss that all texts share
    assert token_losses(texts, same).tolist() == pytest.approx([2.0] * 5)


def test_too_short_and_too_long():
    lm = language_model()
    short = dataclasses.replace(TEXTS, texts=("cat", *TEXTS.texts, "dog"))
    found = encode_texts(lm, short)
    assert found.rows == encode_texts(lm, TEXTS).rows and found.skipped == 2
    assert found.notice == "corpus: 2 texts skipped, shorter than 2 tokens"
    few = encode_texts(lm, short, ModelSettings(samples=3))
    assert few.rows == found.rows[:3] and few.skipped == 1 and few.data != found.data
    with pytest.raises(ProbesError, match=r"1 text skipped.*: 1 left, 2 or more are needed"):
        encode_texts(lm, dataclasses.replace(TEXTS, texts=("cat", "one two")))
    with pytest.raises(ProbesError, match=rf"33 tokens of a text .* is {CONTEXT}; .*-tokens 32\)"):
        encode_texts(lm, dataclasses.replace(TEXTS, tokens=CONTEXT + 1))
    encode_texts(lm, dataclasses.replace(TEXTS, tokens=CONTEXT))


def test_an_end_token_that_the_tokenizer_adds_is_no_part_of_a_text():
    lm = language_model()
    adding = tokenizer(end="[end]")

    class Adds:
        eos_token_id, pad_token_id = 1, None

        def __call__(self, text, truncation, max_length):
            return {"input_ids": [*adding(text)["input_ids"][: max_length - 1], 1]}

    other = dataclasses.replace(lm, tokenizer=Adds())
    assert encode_texts(other, TEXTS).rows == encode_texts(lm, TEXTS).rows


def test_a_position_that_texts_do_not_have():
    lm = language_model()
    with pytest.raises(ValueError, match="position must be last or mean of texts, not 'flat'"):
        through(lm, encode_texts(lm, TEXTS), "flat")


# Files


def test_files(tmp_path):
    lines = [json.dumps({"text": "one\ntwo", "id": 3}), "", json.dumps("three four")]
    (tmp_path / "pile.jsonl").write_text("\n".join(lines))
    assert read_texts(tmp_path / "pile.jsonl") == TextSet("pile", ("one\ntwo", "three four"), 512)
    (tmp_path / "plain.txt").write_text("one two\n\n  \nthree four\n")
    assert read_texts(tmp_path / "plain.txt", 7) == TextSet("plain", ("one two", "three four"), 7)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{nonsense", "Expecting property name"),
        ("3", "text must be a text, not 3"),
        ('{"content": "x"}', "no 'text' among 'content'"),
        ('{"text": null}', "text must be a text, not None"),
        ('{"text": " "}', "text is empty; leave the line out"),
        (r'{"text": "\ud800"}', "text holds half of a character pair"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = tmp_path / "mine.jsonl"
    path.write_text(f'{{"text": "one two"}}\n{line}\n')
    with pytest.raises(ProbesError, match=rf"mine\.jsonl, line 2: .*{message}"):
        read_texts(path)


def test_files_that_will_not_do(tmp_path):
    with pytest.raises(ProbesError, match=r"no such file: .*gone"):
        read_texts(tmp_path / "gone")
    (tmp_path / "one.txt").write_text("one two\n")
    with pytest.raises(ProbesError, match=r"one.txt has 1 texts; 2 or more are needed"):
        read_texts(tmp_path / "one.txt")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ProbesError, match="not readable as UTF-8"):
        read_texts(tmp_path / "bytes.txt")
    with pytest.raises(ValueError, match="tokens of a text must be 2 or more, not 1"):
        read_texts(tmp_path / "one.txt", 1)
