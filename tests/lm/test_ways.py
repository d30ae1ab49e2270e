"""Choices that share their prompt's pass against rows of their own with all logits, and who may."""

import dataclasses
import warnings
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("transformers")

import transformers

from geomfast.lm import hf, reading, ways
from geomfast.lm.causal_lm import CausalLM
from geomfast.lm.encoding import Choice, EncodedProbes, encode
from geomfast.lm.probe_sets import ProbeItem, ProbeSet, builtin
from geomfast.lm.trees import ancestors, batches, grown
from geomfast.lm.ways import PLAIN, Way, fastest_way, run
from tests.lm.language_models import (
    CONTEXT,
    FAMILIES,
    PROBES,
    VOCABULARY,
    byte_pairs,
    language_model,
    network,
)

SHARED, NARROW = Way(shared=True, narrow=True), Way(shared=False, narrow=True)
#: Choices of one token and of several, some alike but for their last, and one inside another.
BRANCHING = ProbeSet(
    "branching",
    (
        ProbeItem("the cat sat on the", ("mat", "mat is red", "mat is blue", "dog"), 1),
        ProbeItem("one", ("two three four", "two three five", "two", "red cat"), 0),
        ProbeItem("a dog is on the red", ("mat", "cat sat"), 1),
        ProbeItem("a dog was", ("red", "blue"), 0),
        ProbeItem("the mat was on the one cat the dog sat on", ("red red red", "blue"), 0),
    ),
)
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
}


def other(kind: str, **config: Any) -> CausalLM:
    """A tiny model of another family than those of `language_models`, with large weights."""
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = getattr(transformers, f"{kind}Config")(**config)
        model = getattr(transformers, f"{kind}ForCausalLM")(made).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0 if parameter.dim() > 1 else 1.0)
    torch.random.set_rng_state(state)
    model.config.use_cache = False
    return dataclasses.replace(language_model(), model=model)


def require_same(lm: CausalLM, probes: EncodedProbes, way: Way, position: str = "last") -> None:
    found = run(lm, probes, way, position, 64)
    expected = run(lm, probes, PLAIN, position, 64)
    torch.testing.assert_close(found.logprobs, expected.logprobs, rtol=1e-6, atol=1e-6)
    assert found.states is not None and expected.states is not None
    assert list(found.states) == list(expected.states)
    for label, x in expected.states.items():
        torch.testing.assert_close(found.states[label], x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("position", ["last", "mean", "flat"])
def test_a_shared_prompt_changes_no_value(family, position):
    lm = language_model(family)
    lm.model.double()
    for one in (PROBES, BRANCHING):
        probes = encode(lm, one)
        assert fastest_way(lm, [probes], position, notice=pytest.fail) == SHARED
        require_same(lm, probes, SHARED, position)
        require_same(lm, probes, NARROW, position)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_built_in_sets(family):
    """In pieces of words, where choices have several tokens; values of float32."""
    sets = builtin()
    texts = [item.prompt for one in sets.values() for item in one.items]
    model = network(family, rows=600, scale=2.0)
    lm = CausalLM(model, byte_pairs(texts, 600), "pieces")
    if family == "GPT2":
        model.transformer.wpe = nn.Embedding(256, 16)  # learnt positions, and too few of them
    model.config.max_position_embeddings = 256
    every = [encode(lm, one) for one in sets.values()]
    assert fastest_way(lm, every, "last", notice=pytest.fail) == SHARED
    for probes in every[:3]:
        found, expected = (run(lm, probes, way, "last", 64) for way in (SHARED, PLAIN))
        torch.testing.assert_close(found.logprobs, expected.logprobs, rtol=1e-5, atol=1e-5)


def test_states_keep_the_order_of_the_probes():
    lm = language_model()
    probes = encode(lm, BRANCHING)
    assert len({len(choices[0].tokens) for choices in probes.choices}) > 2  # not of one length
    shared = run(lm, probes, SHARED, "last", 2).states
    assert shared is not None
    for label, x in hf.states(lm, probes).items():
        torch.testing.assert_close(shared[label], x, rtol=1e-4, atol=1e-5)


def test_choices_that_do_not_begin_with_the_prompt_share_nothing_of_it():
    """A first token may take in the prompt's end for one choice alone."""
    lm = language_model()
    choices = (Choice((3, 4, 5, 6), 2, 1), Choice((3, 9, 5, 6), 2, 1), Choice((8, 4, 5), 2, 1))
    probes = dataclasses.replace(encode(lm, PROBES), choices=(choices, choices), answers=(0, 1))
    for i, right in enumerate(probes.right):
        tree = ways._tree(probes, i)
        assert [tree.tokens[node] for node in tree.shown] == [*right.tokens[:2]]
    require_same(lm, probes, SHARED)


def test_one_pass_gives_behaviour_and_states():
    lm = language_model()
    probes = [encode(lm, PROBES), encode(lm, BRANCHING)]
    list(hf.measure_lm(lm, probes, ["behaviour", "rankme"]))  # what comes at the first use
    seen = []
    handle = lm.model.register_forward_pre_hook(
        lambda module, given, named: seen.append(named["input_ids"].shape), with_kwargs=True
    )
    way = fastest_way(lm, probes, "last")
    compared = len(seen)
    list(hf.measure_lm(lm, probes, ["behaviour", "rankme"]))
    handle.remove()
    assert way == SHARED
    trees = [[ways._tree(one, i) for i in range(len(one))] for one in probes]
    assert len(seen) == 2 * compared + sum(len(batches(those, 64)) for those in trees)


def test_logits_are_made_where_they_are_read():
    lm = language_model()
    probes = encode(lm, BRANCHING)
    made = []
    head = lm.model.get_output_embeddings()
    handle = head.register_forward_hook(lambda module, given, out: made.append(out[..., 0].numel()))
    run(lm, probes, SHARED, None, 64)
    handle.remove()
    read = {
        (i, choice.tokens[:end])
        for i, choices in enumerate(probes.choices)
        for choice in choices
        for end in range(choice.start, len(choice.tokens))
    }
    assert sum(made) == len(read)


# Models with ways of their own


def test_what_is_done_with_logits_is_done_with_these():
    """A cap, a factor."""
    gemma = {"head_dim": 8, "final_logit_softcapping": 2.0, "sliding_window": 64}
    for lm in (other("Gemma2", **SMALL, **gemma), other("Cohere", **SMALL, logit_scale=0.3)):
        probes = encode(lm, BRANCHING)
        assert fastest_way(lm, [probes], "last", notice=pytest.fail) == SHARED
        require_same(lm, probes, SHARED)


def refused(lm: CausalLM, expected: Way, reason: str) -> None:
    """A model takes a slower way, says so, and has the values of that."""
    probes = encode(lm, BRANCHING)
    notices: list[str] = []
    assert fastest_way(lm, [probes], "last", notice=notices.append) == expected
    assert len(notices) == 1 and "every choice runs with a prompt of its own" in notices[0]
    assert reason in notices[0]
    told: list[str] = []
    rows = list(hf.measure_lm(lm, [probes], ["behaviour", "rankme"], notice=told.append))
    assert told == notices
    plain = run(lm, probes, PLAIN, "last", 64)
    mean = [
        x[a] for x, a in zip(plain.logprobs.split([4, 4, 2, 2, 2]), probes.answers, strict=True)
    ]
    lengths = [len(choice.tokens) - choice.start for choice in probes.right]
    value = sum(float(x) / n for x, n in zip(mean, lengths, strict=True)) / len(lengths)
    found = {found.measure: found.value for _, found in rows}
    assert found["answer_logprob"] == pytest.approx(value, rel=1e-6)


def test_a_model_that_takes_no_positions():
    """ALiBi counts them in the mask."""
    bloom = {"n_layer": 2, "n_head": 2, "hidden_size": 16, "vocab_size": VOCABULARY}
    refused(other("Bloom", **bloom), NARROW, "it cannot be told at which positions")


def test_a_model_whose_state_goes_on_from_token_to_token():
    mamba = {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": VOCABULARY, "state_size": 4}
    refused(other("Mamba", **mamba), NARROW, "MambaForCausalLM: every choice")
    jamba = {"attn_layer_offset": 1, "attn_layer_period": 2, "mamba_d_state": 4}
    jamba |= {"num_experts": 2, "use_mamba_kernels": False}
    refused(other("Jamba", **SMALL, **jamba), NARROW, "carry a state from token to token")


def test_local_attention_by_another_name():
    """Of which only the values tell, and only those of a probe whose branches are far apart."""
    neo = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_layers": 2, "num_heads": 2}
    neo |= {"attention_types": [[["global", "local"], 1]], "window_size": 4}
    lm = other("GPTNeo", **neo, max_position_embeddings=CONTEXT)
    near = encode(lm, BRANCHING)
    assert fastest_way(lm, [near], "last", notice=pytest.fail) == SHARED
    require_same(lm, near, SHARED)
    far = ProbeItem("one", ("two three four five one two red", "red dog", "blue"), 1)
    both = encode(lm, dataclasses.replace(BRANCHING, items=(*BRANCHING.items, far)))
    notices: list[str] = []
    assert fastest_way(lm, [both], "last", notice=notices.append) == NARROW
    assert "differ by" in notices[0]


def test_a_window_of_attention_that_is_shorter_than_the_longest_row():
    mistral = other("Mistral", **SMALL, sliding_window=4)
    refused(mistral, NARROW, "its window of attention, 4, is shorter than the longest row, 14")
    wide = other("Mistral", **SMALL, sliding_window=CONTEXT)
    assert fastest_way(wide, [encode(wide, BRANCHING)], "last", notice=pytest.fail) == SHARED


class Deaf(nn.Module):
    """Takes masks and positions, and leaves them aside."""

    def __init__(self):
        super().__init__()
        self.inner = network("Llama")
        self.config = self.inner.config

    def get_input_embeddings(self):
        return self.inner.get_input_embeddings()

    def get_output_embeddings(self):
        return self.inner.get_output_embeddings()

    def forward(self, input_ids, attention_mask=None, position_ids=None):
        return self.inner(input_ids=input_ids)


def test_a_model_that_does_not_look_at_the_mask():
    refused(dataclasses.replace(language_model(), model=Deaf()), NARROW, "log-probabilities differ")


class Turned(Deaf):
    """Does to its logits what depends on where they are."""

    def forward(self, input_ids, attention_mask=None, position_ids=None):
        out = super().forward(input_ids)
        out.logits = out.logits * torch.arange(1, out.logits.shape[1] + 1)[:, None]
        return out


class Headless(Deaf):
    """Does not say which module makes its logits."""

    def get_output_embeddings(self):
        return None


@pytest.mark.parametrize("kind", [Turned, Headless])
def test_a_head_that_is_not_alone(kind):
    refused(dataclasses.replace(language_model(), model=kind()), PLAIN, "")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_of_16_bits_is_no_difference(dtype):
    lm = language_model()
    lm.model.to(dtype)
    assert fastest_way(lm, [encode(lm, BRANCHING)], "last", notice=pytest.fail) == SHARED


def test_out_of_memory_is_not_taken_for_a_model_that_cannot(monkeypatch):
    lm = language_model()
    probes = encode(lm, BRANCHING)
    ancestors = reading.ancestors

    def only_one(trees):
        if len(trees) > 1:
            raise MemoryError
        return ancestors(trees)

    monkeypatch.setattr(reading, "ancestors", only_one)
    notices: list[str] = []
    hf.behaviour(lm, probes, batch_size=4, notice=notices.append)
    assert notices and all("out of memory" in notice for notice in notices)


# Trees


def test_what_begins_alike_is_there_once():
    tree = grown([(0, (1, 2, 3, 4), 2), (1, (1, 2, 3, 5), 2), (2, (1, 2, 6, 3), 2)], (1, 2))
    assert tree.tokens == (1, 2, 3, 6) and tree.parents == (-1, 0, 1, 1)
    assert tree.shown == (0, 1) and tree.gap == 1
    assert set(tree.scored) == {(1, 3, 0), (2, 4, 0), (1, 3, 1), (2, 5, 1), (1, 6, 2), (3, 3, 2)}
    seen = ancestors([tree, grown([(0, (1, 2, 3), 1)])])
    assert seen[0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 0, 1]]
    assert seen[1, :2, :2].int().tolist() == [[1, 0], [1, 1]]
    assert seen.diagonal(dim1=1, dim2=2).all()  # a row that sees nothing has no softmax


def test_batches_are_of_like_sizes():
    trees = [grown([(0, (*range(n), 0), 1)]) for n in (40, 3, 3, 41, 3, 4, 40)]
    assert batches(trees, 64) == [[1, 2, 4, 5], [0, 6, 3]]
    assert batches(trees, 2) == [[1, 2], [4, 5], [0, 6], [3]]
    many = [grown([(0, (*range(900), 0), 1)])] * 5
    assert [len(batch) for batch in batches(many, 64)] == [2, 2, 1]
    assert batches([grown([(0, (*range(9000), 0), 1)])], 64) == [[0]]
