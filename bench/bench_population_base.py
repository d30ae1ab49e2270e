"""Training the heads of 64 members of one base: stacked over cached states, and as full runs.

One step of all members of `geomfast population --base --reinit head`. "full runs" is what anyone
would write for one member: a model of transformers whose trunk is frozen and runs under `no_grad`,
logits only at the positions that predict answers, torch's fused AdamW and `clip_grad_norm_`. The
members share one trunk in memory. "cached, one after the other" has the states of the trunk cached
too, and trains the heads in turn. Before anything is timed, all contenders make one step from the
same start and are compared.

What stacking saves is the trunk; what it cannot save is reading and writing the heads, their
gradients and moments: the ratio grows with the work of the trunk per word of the vocabulary.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.interleave import finished, interleave
from geomfast.lm.causal_lm import CausalLM
from geomfast.lm.probe_sets import ProbeItem, ProbeSet
from geomfast.population.base.plan import STACKED_HEAD, BaseSettings, train_settings
from geomfast.population.base.prepared import Prepared, described
from geomfast.population.base.programs import programs
from geomfast.testbed.training.schedule import learning_rate

#: Layers, width, words of the vocabulary, words of a prompt, members, examples of a step.
FULL = [
    (2, 64, 1000, 16, 64, 16),
    (4, 128, 1000, 16, 64, 16),
    (6, 256, 1000, 32, 64, 16),
    (6, 256, 8000, 32, 64, 16),
]
TINY = [(1, 16, 40, 4, 3, 4)]
ROUNDS = 7
BUDGET = 30.0  # seconds of one contender and size
EXAMPLES = 200
RATIOS = {
    "over full runs": ("full runs", "geomfast"),
    "over cached, one after the other": ("cached, one after the other", "geomfast"),
}


def base(layers: int, width: int, words: int) -> CausalLM:
    """A random GPT-2 and a tokenizer of words w0, w1, ..."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    vocabulary = {"[unk]": 0} | {f"w{i}": i + 1 for i in range(words - 1)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[unk]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[unk]")
    small = {"n_layer": layers, "n_head": max(1, width // 32), "n_embd": width, "n_positions": 64}
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        config = transformers.GPT2Config(vocab_size=words, bos_token_id=0, eos_token_id=0, **small)
        model = transformers.GPT2LMHeadModel(config).eval()
    model.config.use_cache = False
    return CausalLM(model, tokenizer, f"{layers}x{width}")


def examples(words: int, length: int, seed: int) -> ProbeSet:
    """Prompts of random words, about as long as asked for."""
    draw = random.Random(seed)

    def word() -> str:
        return f"w{draw.randrange(words - 1)}"

    items = []
    for _ in range(EXAMPLES):
        prompt = " ".join(word() for _ in range(draw.randint(length // 2, length)))
        items.append(ProbeItem(prompt, ("w1", "w2", "w3"), draw.randrange(3)))
    return ProbeSet("bench", tuple(items))


class Loop:
    """The members one after the other, each a head with an optimiser of its own.

    Args:
        made: the base.
        seeds: of the members.
        cached: whether the trunk's states are looked up instead of computed.
    """

    def __init__(self, made: Prepared, seeds: list[int], *, cached: bool):
        self.made, self.seeds, self.cached, self.at = made, seeds, cached, 0
        self.settings, self.device = train_settings(made.settings), made.device
        model: Any = made.model
        self.trunk = model.base_model
        self.heads, self.optimizers = [], []
        for weight in made.views(made.start(seeds))[0]:
            head = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device=made.device)
            head.weight.data.copy_(weight)
            self.heads.append(head)
            options = {"betas": self.settings.betas, "weight_decay": self.settings.weight_decay}
            self.optimizers.append(torch.optim.AdamW(head.parameters(), fused=True, **options))
        rows = made.train
        self.states = made.places[0].final
        # Tokens and answers of all examples once, as a DataLoader would have them.
        self.ids = rows.ids(torch.arange(len(rows))).to(self.device)
        self.lengths = rows.lengths
        self.places, self.targets = (
            rows.at[:, 0].to(self.device),
            rows.targets[:, 0].to(self.device),
        )

    def step(self) -> None:
        s = self.settings
        rate = learning_rate(
            self.at, peak=s.learning_rate or 0.0, steps=s.steps, warmup=s.warmup, final=s.final_rate
        )
        for seed, head, optimizer in zip(self.seeds, self.heads, self.optimizers, strict=True):
            drawn = torch.from_numpy(self.made.order.draw(seed, self.at))
            states = self.states[drawn, 0] if self.cached else self._run(drawn)
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
            F.cross_entropy(head(states), self.targets[drawn]).backward()
            nn.utils.clip_grad_norm_(head.parameters(), s.clip)
            optimizer.step()
        self.at += 1

    @torch.no_grad()
    def _run(self, drawn: Tensor) -> Tensor:
        ids = self.ids[drawn, : int(self.lengths[drawn].max())]
        states = self.trunk(input_ids=ids).last_hidden_state
        return states[torch.arange(len(drawn), device=self.device), self.places[drawn]]

    def weights(self) -> Tensor:
        return torch.stack([head.weight.detach().flatten() for head in self.heads])


@pytest.mark.parametrize("index", range(len(FULL)))
def bench_population_base(benchmark, results, full, device, restore_threads, index):
    sizes = FULL if full else TINY
    if index >= len(sizes):
        pytest.skip("a size of the full run")
    layers, width, words, length, members, batch = sizes[index]
    torch.set_num_threads(1)
    settings = BaseSettings(
        ("head",), "reinitialised", "bench", "", "", 10_000, batch, 1e-2, 0.01, None, 16
    )
    lm = base(layers, width, words)
    lm.model.to(device)
    sets = (examples(words, length, seed) for seed in (0, 1))
    made = described(lm, lm.name, settings, *sets, stack=True)
    assert made.base.way == STACKED_HEAD
    seeds = list(range(members))
    (stacked,) = programs(made, seeds, members)
    loops = {
        "full runs": Loop(made, seeds, cached=False),
        "cached, one after the other": Loop(made, seeds, cached=True),
    }
    steps: dict[str, Callable[[], object]] = {"geomfast": lambda: stacked.advance(1)}
    steps |= {who: loop.step for who, loop in loops.items()}
    start = stacked.model.weights.clone()
    for step in steps.values():
        step()
    exact = loops["full runs"].weights()
    moved = {who: loop.weights() for who, loop in loops.items()}
    moved["geomfast"] = stacked.model.weights.clone()
    errors = {who: float((x - exact).abs().max()) for who, x in moved.items()}
    assert max(errors.values()) <= 1e-5, errors
    assert not torch.equal(exact, start)
    calls = {who: finished(step, device) for who, step in steps.items()}
    seconds = interleave(calls, rounds=ROUNDS if full else 1, budget=BUDGET)
    where = f" on {device}" if device != "cpu" else ""
    results.add(
        f"heads of {members} members {lm.name}, {words} words, prompts to {length}{where}",
        seconds,
        RATIOS,
        errors,
        **{
            "members per second": "; ".join(
                f"{who} {members / value:.0f}" for who, value in seconds.items()
            ),
            "trained parameters of a member": f"{made.base.trained:,}",
        },
    )
    benchmark.pedantic(calls["geomfast"], rounds=1)
