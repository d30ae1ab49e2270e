"""Members of a base: stacked, they are what each is alone, trained by torch's own means."""

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from geomfast.lm.causal_lm import CausalLM
from geomfast.lm.encoding import answer_batch, answer_loss
from geomfast.population.base import tail as module
from geomfast.population.base.examples import encoded
from geomfast.population.base.measuring import observe
from geomfast.population.base.plan import IN_TURN, STACKED_HEAD, STACKED_TAIL, train_settings
from geomfast.population.base.prepared import Prepared
from geomfast.population.base.programs import programs
from geomfast.population.base.trainer import BaseTrainer
from geomfast.testbed.training.schedule import learning_rate
from tests.lm.language_models import FAMILIES, language_model
from tests.population.bases import TRAIN, prepared

SEEDS = (4, 0, 9)
#: What is re-initialised, in all ways that members are trained.
PARTS = {
    "head": (("head",), STACKED_HEAD, 0),
    "last": (("last-block", "head"), STACKED_TAIL, 1),
    "first": (("*.0", "head"), STACKED_TAIL, 2),
}


class Alone:
    """One member as anyone would train it: a model whose other parameters want no gradient."""

    def __init__(self, made: Prepared, seed: int) -> None:
        self.made, self.seed, self.step = made, seed, 0
        self.model = copy.deepcopy(made.model)
        values = made.start([seed])
        for name, value in zip(made.trained, made.views(values), strict=True):
            self.model.get_parameter(name).data = value[0].clone()
        own = [self.model.get_parameter(name) for name in made.trained]
        self.settings = train_settings(made.settings)
        groups = [
            {"params": [p for p in own if p.dim() >= 2], "weight_decay": 0.01},
            {"params": [p for p in own if p.dim() < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, betas=self.settings.betas)
        self.right = encoded(CausalLM(self.model, language_model().tokenizer, "x"), TRAIN).right

    def train(self, steps: int) -> None:
        s = self.settings
        for _ in range(steps):
            drawn = self.made.order.draw(self.seed, self.step)
            batch = answer_batch([self.right[i] for i in drawn], 0, "cpu")
            self.optimizer.zero_grad()
            answer_loss(self.model, batch).mean().backward()
            own = [self.model.get_parameter(name) for name in self.made.trained]
            nn.utils.clip_grad_norm_(own, s.clip)
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(
                    self.step,
                    peak=s.learning_rate or 0.0,
                    steps=s.steps,
                    warmup=s.warmup,
                    final=s.final_rate,
                )
            self.optimizer.step()
            self.step += 1

    @property
    def weights(self) -> Tensor:
        own = (self.model.get_parameter(name).detach() for name in self.made.trained)
        return torch.cat([value.flatten() for value in own])


def trained(made: Prepared, steps: int, together: int = 3) -> BaseTrainer:
    trainer = BaseTrainer(made, SEEDS, together)
    trainer.advance(steps)
    return trainer


def weights(trainer: BaseTrainer) -> Tensor:
    return torch.cat([program.model.weights.detach() for program in trainer.programs])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("parts", PARTS)
def test_a_stacked_member_is_the_one_trained_alone(family: str, parts: str) -> None:
    reinit, way, blocks = PARTS[parts]
    made = prepared(family, reinit=reinit)
    assert (made.base.way, made.base.tail, made.base.reason) == (way, blocks, "")
    assert made.base.answers_only
    start = made.start(SEEDS)
    found = weights(trained(made, 1))
    assert not torch.equal(found, start)
    for i, seed in enumerate(SEEDS):
        alone = Alone(made, seed)
        alone.train(1)
        torch.testing.assert_close(found[i], alone.weights, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("parts", ["head", "last"])
def test_at_the_end_of_training_accuracy_is_that_of_members_alone(parts: str) -> None:
    """Rounding differs, and training magnifies it: what was learned does not, within the noise."""
    made = prepared("GPT2", reinit=PARTS[parts][0], steps=80, learning_rate=2e-2)
    stacked = observe(trained(made, 80).programs[0])
    alone = prepared("GPT2", reinit=PARTS[parts][0], steps=80, learning_rate=2e-2, stack=False)
    assert (alone.base.way, alone.base.tail) == (IN_TURN, 2)
    each = [observe(program) for program in trained(alone, 80).programs]
    one, other = stacked.right.mean(1), torch.cat([seen.right.mean(1) for seen in each])
    noise = (one * (1 - one) / 20).sqrt() + 1 / 20
    assert one.mean() > 0.5  # of 1/3 by guessing
    assert ((one - other).abs() <= 3 * noise).all()


@pytest.mark.parametrize("reinit", [("last-block", "head"), ("transformer.wte",)])
def test_members_one_after_the_other_are_trained_as_alone(reinit: tuple[str, ...]) -> None:
    """An embedding comes before all blocks, so that nothing is left to be run once."""
    made = prepared("GPT2", reinit=reinit, trained="all", accumulation=3)
    assert made.base.way == IN_TURN and made.base.trained == made.base.parameters
    found, begun = weights(trained(made, 3, 1)), made.start(SEEDS)
    for i, seed in enumerate(SEEDS):
        made = prepared("GPT2", reinit=reinit, trained="all")
        assert torch.equal(made.start([seed])[0], begun[i])
        alone = Alone(made, seed)
        alone.train(3)
        # Biases of keys have a gradient of rounding alone, which AdamW takes for one.
        torch.testing.assert_close(found[i], alone.weights, rtol=1e-4, atol=5e-4)


def test_what_comes_before_the_blocks_cannot_be_stacked() -> None:
    made = prepared("GPT2", reinit=("transformer.wte",))
    assert made.base.way == IN_TURN
    assert made.base.reason == "transformer.wte.weight comes before the blocks"
    found = weights(trained(made, 2))
    for i, seed in enumerate(SEEDS):
        alone = Alone(prepared("GPT2", reinit=("transformer.wte",)), seed)
        alone.train(2)
        torch.testing.assert_close(found[i], alone.weights, rtol=1e-5, atol=1e-5)


def test_a_block_without_a_known_cache_is_run_at_all_positions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    narrow = weights(trained(prepared("Llama"), 1))
    monkeypatch.setattr(module, "_CACHES", ())
    made = prepared("Llama")
    assert (made.base.way, made.base.answers_only) == (STACKED_TAIL, False)
    torch.testing.assert_close(weights(trained(made, 1)), narrow, rtol=1e-5, atol=1e-5)


def test_an_architecture_that_is_no_such_composition_is_trained_in_turn() -> None:
    """Here one that scales its logits after the head, as some do."""

    class Scaled(type(language_model("GPT2").model)):  # pyright: ignore[reportGeneralTypeIssues]
        def forward(self, *given: Any, **named: Any) -> Any:
            out = super().forward(*given, **named)
            out.logits = 0.5 * out.logits
            return out

    for parts in ("head", "last"):
        lm = language_model("GPT2")
        lm.model.__class__ = Scaled
        made = prepared(lm=lm, reinit=PARTS[parts][0])
        assert made.base.way == IN_TURN
        assert "its logits would be" in made.base.reason


def test_programs_of_any_size_train_the_same_members() -> None:
    for reinit in (("head",), ("last-block", "head")):
        whole = weights(trained(prepared(reinit=reinit), 3, 3))
        parts = weights(trained(prepared(reinit=reinit), 3, 2))
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)


def test_bf16_is_near_and_the_frozen_parts_stay() -> None:
    made = prepared("GPT2", trained="all", precision="bf16")
    exact = weights(trained(prepared("GPT2", trained="all"), 1, 1))
    found = weights(trained(made, 1, 1))
    assert not torch.equal(found, exact)
    assert float((found - exact).abs().max()) < 3e-2
    made = prepared("GPT2")
    frozen = {n: p for n, p in made.model.named_parameters() if n not in made.trained}
    before = {name: value.detach().clone() for name, value in frozen.items()}
    trained(made, 2)
    trained(dataclasses.replace(made, base=dataclasses.replace(made.base, way=IN_TURN)), 2, 1)
    assert all(torch.equal(frozen[name], before[name]) for name in frozen)


def test_a_head_with_a_bias_is_stacked() -> None:
    def biased() -> CausalLM:
        lm = language_model("GPTNeoX")
        lm.model.lm_head.bias = nn.Parameter(torch.full([60], 0.3))
        return lm

    made = prepared(lm=biased(), reinit=("head",))
    assert made.base.way == STACKED_HEAD and made.base.trained == 60 * 17
    (program,) = programs(made, SEEDS, 3)
    program.advance(1)
    for i, seed in enumerate(SEEDS):
        alone = Alone(made, seed)
        alone.train(1)
        found = program.model.weights[i]
        torch.testing.assert_close(found, alone.weights, rtol=1e-5, atol=1e-5)
