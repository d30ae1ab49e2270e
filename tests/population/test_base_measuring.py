"""What members of a base are measured by: the same as each of them, a model by itself."""

import pandas as pd
import pytest
import torch

from geomfast.estimators.spectra import rankme
from geomfast.lm.causal_lm import CausalLM
from geomfast.lm.encoding import encode
from geomfast.lm.hf import behaviour, states
from geomfast.population.base import measuring
from geomfast.population.base.measuring import measure, observe
from geomfast.population.base.plan import IN_TURN
from geomfast.population.base.programs import Program
from geomfast.population.base.trainer import BaseTrainer
from tests.lm.language_models import FAMILIES, language_model, tokenizer
from tests.population.bases import TEST, prepared

SEEDS = (1, 0, 5)
WAYS = {
    "stacked head": {"reinit": ("head",)},
    "stacked tail": {},
    "one after the other": {"trained": "all"},
}


def members(program: Program) -> list[CausalLM]:
    """Each member as a language model of its own."""
    made, found = program.prepared, []
    for i in range(program.model.members):
        lm = language_model("GPT2")
        lm.model.load_state_dict(made.model.state_dict(), strict=True, assign=False)
        values = [x[i] for x in made.views(program.model.weights)]
        # Untied, as the members' heads are.
        lm.model.lm_head.weight = torch.nn.Parameter(lm.model.lm_head.weight.detach().clone())
        lm.model.load_state_dict(made.model.state_dict())
        for name, value in zip(made.trained, values, strict=True):
            lm.model.get_parameter(name).data = value.clone()
        found.append(lm)
    return found


@pytest.mark.parametrize("way", WAYS)
def test_behaviour_and_states_are_those_of_each_member_alone(way: str) -> None:
    made = prepared("GPT2", **WAYS[way])
    assert made.base.way == way
    trainer = BaseTrainer(made, SEEDS, 3)
    trainer.advance(3)
    encoded = encode(language_model("GPT2"), TEST)
    for program in trainer.programs:
        seen = observe(program)
        rows = pd.DataFrame(measure(program, {}, made.settings.taken))
        assert set(rows["measure"]) == {"accuracy", "answer_nats", "choice_nats", "rankme"}
        assert set(rows["level"]) == {0} and set(rows["n"]) == {20}
        for i, lm in enumerate(members(program)):
            alone = behaviour(lm, encoded)
            torch.testing.assert_close(seen.right[i], alone.right)
            torch.testing.assert_close(seen.answer_nats[i], -alone.logprob, rtol=1e-4, atol=1e-5)
            own = rows[rows["seed"] == program.seeds[i]].set_index(["measure", "layer"])["value"]
            assert own["accuracy", ""] == pytest.approx(float(alone.right.mean()))
            layers = states(lm, encoded)
            for layer, label in enumerate(("block 2", "final")):
                shown = seen.states[i if len(seen.states) > 1 else 0, layer]
                torch.testing.assert_close(shown, layers[label], rtol=1e-4, atol=1e-4)
                expected = float(rankme(layers[label]))
                assert own["rankme", label] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_over_choices_is_that_of_their_probabilities(family: str) -> None:
    """Against every choice run by itself, its tokens' log-probabilities summed."""
    made = prepared(family)
    trainer = BaseTrainer(made, (3,), 1)
    (program,) = trainer.programs
    seen = observe(program)
    lm = CausalLM(made.model, tokenizer(), "x")
    for name, value in zip(made.trained, made.views(program.model.weights), strict=True):
        made.model.get_parameter(name).data = value[0].clone()
    for number, item in enumerate(TEST.items):
        scores = []
        for i in range(3):
            prompt, text = item.prompt, item.prompt + item.continuation(i)
            ids = torch.tensor([lm.tokenizer(text)["input_ids"]])
            start = len(lm.tokenizer(prompt)["input_ids"])
            with torch.no_grad():
                logprobs = lm.model(input_ids=ids).logits[0].double().log_softmax(-1)
            scores.append(logprobs[start - 1 : -1].gather(1, ids[0, start:, None]).sum())
        found = torch.stack(scores)
        expected = float(found.logsumexp(0) - found[item.answer])
        assert float(seen.choice_nats[0, number]) == pytest.approx(expected, abs=1e-4)
        assert bool(seen.right[0, number]) == (int(found.argmax()) == item.answer)


@pytest.mark.parametrize("way", WAYS)
def test_rows_taken_in_parts_are_judged_alike(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = BaseTrainer(prepared("GPT2", **WAYS[way]), SEEDS, 3)
    whole = [observe(program) for program in trainer.programs]
    monkeypatch.setattr(measuring, "_BYTES", 1)
    for program, one in zip(trainer.programs, whole, strict=True):
        seen = observe(program)
        torch.testing.assert_close(seen.states, one.states, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(seen.answer_nats, one.answer_nats, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(seen.choice_nats, one.choice_nats, rtol=1e-4, atol=1e-5)


def test_of_equally_likely_choices_the_first_counts() -> None:
    """A head of zeros finds all tokens equally likely, and a choice of two tokens less so."""
    trainer = BaseTrainer(prepared(reinit=("head",)), SEEDS, 3)
    (program,) = trainer.programs
    program.model.weights.zero_()
    seen = observe(program)
    first = torch.tensor([float(item.answer == 0) for item in TEST.items], dtype=torch.float64)
    torch.testing.assert_close(seen.right, first.expand(3, -1))


def test_failed_members_have_no_rows_and_states_that_all_share_are_measured_once() -> None:
    (program,) = BaseTrainer(prepared(reinit=("head",)), SEEDS, 3).programs
    rows = pd.DataFrame(measure(program, {0: 7}, program.prepared.settings.taken))
    assert set(rows["seed"]) == {1, 5} and len(observe(program).states) == 1
    ranks = rows[rows["measure"] == "rankme"].pivot(index="layer", columns="seed", values="value")
    assert (ranks[1] == ranks[5]).all() and len(ranks) == 2
    assert rows["weights"].nunique() == rows["run"].nunique() == 2
    assert measure(program, dict.fromkeys(SEEDS, 0), ["behaviour"]) == []
    assert prepared(trained="all").base.way == IN_TURN
