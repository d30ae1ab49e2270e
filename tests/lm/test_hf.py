"""Models of transformers on probe sets: what is read, judged and left alone."""

import dataclasses
import math

import pytest
import torch
from torch import nn

pytest.importorskip("transformers")

from geomfast.lm import hf
from geomfast.lm.causal_lm import CausalLM
from geomfast.lm.encoding import Choice, answer_batch, encode
from geomfast.lm.probe_sets import ProbeItem, ProbesError, ProbeSet, builtin
from geomfast.measures.model.options import ModelSettings
from geomfast.measures.model.states import NoStates
from tests.lm.language_models import (
    CONTEXT,
    FAMILIES,
    PROBES,
    byte_pairs,
    language_model,
    network,
    tokenizer,
)


def alone(probes):
    """The sets of one probe each, which nothing is padded for."""
    for i in range(len(probes)):
        yield dataclasses.replace(
            probes, choices=probes.choices[i : i + 1], answers=probes.answers[i : i + 1]
        )


def by_hand(lm, item, choice):
    """Log-probability of every token of a continuation, one token of context after the other."""
    prompt = lm.tokenizer(item.prompt)["input_ids"]
    tokens = lm.tokenizer(item.choices[choice])["input_ids"]
    found = []
    for i, token in enumerate(tokens):
        ids = torch.tensor([[*prompt, *tokens[:i]]])
        with torch.no_grad():
            found.append(lm.model(input_ids=ids).logits[0, -1].double().log_softmax(0)[token])
    return torch.stack(found)


@pytest.mark.parametrize("family", FAMILIES)
def test_behaviour_is_that_of_tokens_one_after_the_other(family):
    lm = language_model(family)
    found = hf.behaviour(lm, encode(lm, PROBES), batch_size=3)
    right, by_size, logprob = [], [], []
    for item in PROBES.items:
        nats = [by_hand(lm, item, i) for i in range(len(item.choices))]
        sums = torch.stack([x.sum() for x in nats])
        sizes = torch.tensor([len(choice) for choice in item.choices])
        right.append(float(sums.argmax() == item.answer))
        by_size.append(float((sums / sizes).argmax() == item.answer))
        logprob.append(nats[item.answer].mean())
    assert found.right.tolist() == right and found.right_by_size.tolist() == by_size
    assert found.right.tolist() != found.right_by_size.tolist()  # so that the test can tell
    torch.testing.assert_close(found.logprob, torch.stack(logprob), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_is_minus_the_log_probability_of_the_right_answer(family):
    lm = language_model(family)
    probes = encode(lm, PROBES)
    losses = hf.loss_fn(lm.model, probes.batch)
    assert losses.shape == (6,) and losses.requires_grad
    torch.testing.assert_close(
        losses.double(), -hf.behaviour(lm, probes).logprob, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("position", ["last", "mean"])
def test_padding_changes_nothing(family, position):
    lm = language_model(family)
    probes = encode(lm, PROBES)
    options = ModelSettings(position=position)
    losses = hf.loss_fn(lm.model, probes.batch)
    layers = hf.states(lm, probes, options)
    assert list(layers) == ["block 1", "block 2", "final"]
    assert len({len(choice.tokens) for choice in probes.right}) == 3
    for i, one in enumerate(alone(probes)):
        torch.testing.assert_close(hf.loss_fn(lm.model, one.batch)[0], losses[i])
        for label, x in hf.states(lm, one, options).items():
            torch.testing.assert_close(x[0], layers[label][i], rtol=1e-4, atol=1e-5)
    # Whatever stands in it.
    other = dataclasses.replace(probes, padding=17)
    assert not torch.equal(other.batch["input_ids"], probes.batch["input_ids"])
    torch.testing.assert_close(hf.loss_fn(lm.model, other.batch), losses)
    for label, x in hf.states(lm, other, options).items():
        torch.testing.assert_close(x, layers[label], rtol=1e-4, atol=1e-5)
    # One row after the other.
    for label, x in hf.states(lm, probes, dataclasses.replace(options, batch_size=1)).items():
        torch.testing.assert_close(x, layers[label], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_are_the_blocks_own_outputs_and_the_normed_state(family):
    """transformers gives the normed state in place of the last block's."""
    lm = language_model(family)
    probes = encode(lm, PROBES)
    found = hf.states(lm, probes)
    prompts = probes.prompts
    with torch.no_grad():
        out = lm.model(input_ids=prompts["input_ids"], output_hidden_states=True)
    rows, last = torch.arange(6), prompts["attention_mask"].sum(1) - 1
    _, first, normed = [x[rows, last] for x in out.hidden_states]
    torch.testing.assert_close(found["block 1"], first)
    torch.testing.assert_close(found["final"], normed)
    backbone = lm.model.base_model
    norm = next(
        getattr(backbone, name)
        for name in ("final_layer_norm", "ln_f", "norm")
        if hasattr(backbone, name)
    )
    torch.testing.assert_close(norm(found["block 2"]), normed)
    assert not torch.allclose(found["block 2"], normed, atol=1e-2)
    # The final state is what the head reads, at the position that predicts the answer.
    torch.testing.assert_close(lm.model.get_output_embeddings()(normed), out.logits[rows, last])


@pytest.mark.parametrize(
    ("end", "padding", "used"), [(None, None, 0), ("[end]", None, 1), ("[end]", "[pad]", 2)]
)
def test_what_rows_are_padded_with(end, padding, used):
    lm = dataclasses.replace(language_model(), tokenizer=tokenizer(end=end, padding=padding))
    probes = encode(lm, PROBES)
    assert lm.padding == probes.padding == used
    assert probes.batch["input_ids"][-1, -1] == probes.prompts["input_ids"][-1, -1] == used
    assert lm.tokenizer.pad_token_id == (used if padding else None)  # the tokenizer is left alone


def test_what_is_encoded():
    lm = language_model()
    probes = encode(lm, PROBES)
    ids = lm.tokenizer("the cat sat on the mat")["input_ids"]
    assert probes.right[0] == Choice(tuple(ids), 5, 3)
    assert len(probes) == 6 and probes.skipped == 0 and probes.notice == ""
    assert probes.chance == pytest.approx((5 / 2 + 1 / 3) / 6)
    few = encode(lm, PROBES, ModelSettings(samples=3))
    assert few.choices == probes.choices[:3] and few.data != probes.data
    assert encode(lm, PROBES).data == probes.data


def test_an_end_token_that_the_tokenizer_adds_is_no_part_of_answers():
    lm = language_model()
    plain = encode(lm, PROBES)
    adding = tokenizer(end="[end]")

    class Adds:
        eos_token_id, pad_token_id = 1, None

        def __call__(self, text):
            return {"input_ids": [*adding(text)["input_ids"], 1]}

    assert encode(dataclasses.replace(lm, tokenizer=Adds()), PROBES).choices == plain.choices


class Joins:
    """Of "ab" one token, as of pieces that a byte-pair encoding puts together; no spaces."""

    eos_token_id = pad_token_id = None

    def __call__(self, text):
        joined = text.replace(" ", "").replace("ab", "_")
        return {"input_ids": [ord(x) - ord("_") for x in joined]}


def test_tokens_that_join_across_the_border_belong_to_the_answer():
    lm = dataclasses.replace(language_model(), tokenizer=Joins())
    item = ProbeItem("ca", ("b", "c"), 0)
    found = encode(lm, ProbeSet("joined", (item, item)))
    # "ca" and "b" are c + ab: the answer begins where the prompt alone had its a, and so does the
    # other, for whose a nothing would be counted else.
    assert found.choices[0] == (Choice((4, 0), 1, 1), Choice((4, 2, 4), 1, 1))


def test_an_answer_without_tokens_before_it():
    lm = dataclasses.replace(language_model(), tokenizer=Joins())
    items = (ProbeItem("a", ("b", "c"), 0),) * 2
    with pytest.raises(ProbesError, match="probe 0 of joined: 'a' and ' b' have no tokens"):
        encode(lm, ProbeSet("joined", items))


def test_the_built_in_sets_in_pieces_of_words():
    """Every answer's tokens are the answer, whatever they were cut into."""
    texts = [item.prompt for probes in builtin().values() for item in probes.items]
    words = byte_pairs(texts, 600)
    model = network("GPTNeoX", rows=600)
    model.config.max_position_embeddings = 256
    lm = CausalLM(model, words, "pieces")
    for probes in builtin().values():
        encoded = encode(lm, probes)
        assert len(encoded) == len(probes.items) and encoded.notice == ""
        for item, choices in zip(probes.items, encoded.choices, strict=True):
            for i, choice in enumerate(choices):
                assert words.decode(choice.tokens[: choice.start]) == item.prompt
                assert words.decode(choice.tokens[choice.start :]) == item.continuation(i)
    # A model that knows nothing guesses.
    accuracy = hf.behaviour(lm, encoded).right.mean().item()
    assert accuracy == pytest.approx(encoded.chance, abs=0.2)


def test_probes_longer_than_the_context_are_skipped_and_counted():
    lm = language_model()
    long = ProbeItem("the " * CONTEXT, ("cat", "dog"), 0)
    long_choice = ProbeItem("the", ("cat", "dog " * CONTEXT), 0)
    fits = ProbeItem("the " * (CONTEXT - 1), ("cat", "dog"), 0)
    found = encode(lm, ProbeSet("long", (long, *PROBES.items, long_choice, fits)))
    assert found.skipped == 2 and len(found) == 7
    assert found.notice == "long: 2 probes skipped, longer than the context of 32"
    hf.behaviour(lm, found)
    with pytest.raises(ProbesError, match=r"2 probes skipped.*1 left, 2 or more"):
        encode(lm, ProbeSet("long", (long, fits, long)))


def test_a_tokenizer_of_another_model():
    lm = dataclasses.replace(language_model())
    lm.model.set_input_embeddings(nn.Embedding(10, 16))
    with pytest.raises(ProbesError, match=r"tokenizer of tiny has a token 14, .* of 10 only"):
        encode(lm, PROBES)


def test_a_model_without_hidden_states():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network("GPT2")
            self.inner.transformer.h = nn.Sequential(*self.inner.transformer.h)
            self.config = self.inner.config

        def get_input_embeddings(self):
            return self.inner.get_input_embeddings()

        def forward(self, input_ids):
            return self.inner(input_ids=input_ids)

    lm = dataclasses.replace(language_model(), model=Flat())
    with pytest.raises(NoStates, match="Flat has no list of blocks whose hidden states"):
        hf.states(lm, encode(lm, PROBES))


def test_logits_that_are_not_finite():
    lm = language_model()
    with torch.no_grad():
        lm.model.get_output_embeddings().weight.fill_(math.nan)
    with pytest.raises(ValueError, match="tiny gives logits on small that are not finite"):
        hf.behaviour(lm, encode(lm, PROBES))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_16_bits(dtype):
    """Behaviour near that of float32, spectra in float64, losses in float32."""
    lm = language_model()
    probes = encode(lm, PROBES)
    full = {f.measure + f.layer: f for _, f in hf.measure_lm(lm, [probes], ["behaviour", "rankme"])}
    lm.model.to(dtype)
    assert hf.loss_fn(lm.model, probes.batch).dtype == torch.float32
    assert hf.states(lm, probes)["final"].dtype == dtype
    small = {
        f.measure + f.layer: f for _, f in hf.measure_lm(lm, [probes], ["behaviour", "rankme"])
    }
    assert small.keys() == full.keys() and len(small) == 6
    for name, found in small.items():
        assert found.value == pytest.approx(full[name].value, rel=0.05), name
        assert found.value != full[name].value or name.startswith("accuracy")


def test_all_measures_of_two_sets():
    lm = language_model()
    sets = [encode(lm, PROBES), encode(lm, dataclasses.replace(PROBES, name="other"))]
    options = ModelSettings.asked(
        {
            "llc": {"draws": 3, "burn_in": 1},
            "hessian_trace": {"probes": 6},
            "hessian_top": {"max_iterations": 5},
        }
    )
    rows = list(hf.measure_lm(lm, sets, hf.MEASURES, options))
    names = [found.measure for name, found in rows if name == "small"]
    assert [name for name, _ in rows] == ["small"] * len(names) + ["other"] * len(names)
    assert names[:3] == ["accuracy", "accuracy_by_size", "answer_logprob"]
    assert names[3:6] == ["rankme"] * 3
    assert {"fisher_rank", "gradient_covariance_rank", "hessian_top", "hessian_trace", "llc"} <= {
        *names
    }
    assert all(found.n == 6 and found.seconds > 0 for _, found in rows)
    values = [[f.value for name, f in rows if name == which] for which in ("small", "other")]
    assert values[0] == pytest.approx(values[1], rel=1e-6, nan_ok=True)
    with pytest.raises(ValueError, match="unknown measure 'rankmee'"):
        next(hf.measure_lm(lm, sets, ["rankmee"]))


def test_a_batch_of_answers():
    choices = [Choice((5, 6, 7, 8), 2, 1), Choice((5, 6), 1, 1)]
    batch = answer_batch(choices, 0, "cpu")
    assert batch["input_ids"].tolist() == [[5, 6, 7], [5, 0, 0]]
    assert batch["at"].tolist() == [[1, 2], [0, 0]]
    assert batch["answers"].tolist() == [[7, 8], [6, -100]]


def test_all_choices_of_a_prompt_begin_at_one_token():
    """A space at the prompt's end belongs to all of them, or it would count for some alone."""
    words = byte_pairs(["is it red yes is it no yes red"] * 20, 280)
    model = network("GPT2", rows=280, seed=3)
    lm = CausalLM(model, words, "bytes")
    items = [
        ProbeItem("is it red ", ("yes", "zebra"), 0),
        ProbeItem("is it red ", ("zebra", "no"), 1),
        ProbeItem("is it", (" yes", " no"), 1),
    ]
    found = encode(lm, ProbeSet("spaces", tuple(items)))
    assert words("is it red yes")["input_ids"][-1] == words(" yes")["input_ids"][0]
    for choices in found.choices:
        assert len({choice.start for choice in choices}) == 1
        shared = {choice.tokens[: choice.start] for choice in choices}
        assert len(shared) == 1
    # Scores are log-probabilities of the text behind what the choices share.
    right = []
    for choices, item in zip(found.choices, items, strict=True):
        scores = []
        for choice in choices:
            with torch.no_grad():
                logs = model(torch.tensor([choice.tokens])).logits[0].double().log_softmax(-1)
            steps = range(choice.start, len(choice.tokens))
            scores.append(sum(float(logs[i - 1, choice.tokens[i]]) for i in steps))
        right.append(max(range(2), key=scores.__getitem__) == item.answer)
    judged = hf.behaviour(lm, found, batch_size=2)
    assert judged.right.tolist() == [float(one) for one in right]
