"""What the floor of the collapse depends on: one setting of training or of reading at a time.

All 24 task-levels are trained on, as in `geomfast sweep`; floors are of the final state on level 1
of every task and on MOD-2 and MOD-3, over a checkpoint at every step up to 40 and every 4 after.
Each run is a file of its own in OUT/runs, so that the same command resumes.

OMP_NUM_THREADS=1 python experiments/collapse-six-sizes/what_floors_depend_on.py OUT nano,micro 0,1
"""

import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

import geomfast as gf
from geomfast.estimators.activations import observe
from geomfast.files import write_json
from geomfast.testbed.models.gpt import GPT
from geomfast.testbed.models.scales import SCALES
from geomfast.testbed.tasks import DIAGNOSTIC_STREAM, LEVELS, PAPER_TASKS, TaskLevel, task_levels
from geomfast.testbed.training.loop import Trainer
from geomfast.testbed.training.settings import TrainSettings

STEPS, LAST_CLOSE, APART = 80, 40, 4
MEASURED = [TaskLevel(task, 1) for task in PAPER_TASKS] + [TaskLevel("MOD", n) for n in (2, 3)]


@dataclass(frozen=True)
class Variant:
    """One way to train.

    Attributes:
        name: what is changed.
        learning_rate, warmup, batch_size: of the training.
        initial: standard deviation of the initial weights, in units of GPT-2's 0.02.
        tied: whether the embedding is the output matrix as well.
    """

    name: str
    learning_rate: float = 1e-3
    warmup: int = 100
    batch_size: int = 168
    initial: float = 1.0
    tied: bool = True


USUAL = Variant("usual")
VARIANTS = [
    USUAL,
    replace(USUAL, name="rate 3e-4", learning_rate=3e-4),
    replace(USUAL, name="rate 2e-3", learning_rate=2e-3),
    replace(USUAL, name="warm-up 20", warmup=20),
    replace(USUAL, name="warm-up 400", warmup=400),
    replace(USUAL, name="initial weights x 1/2", initial=0.5),
    replace(USUAL, name="initial weights x 2", initial=2.0),
    replace(USUAL, name="batch 48", batch_size=48),
    replace(USUAL, name="batch 672", batch_size=672),
    replace(USUAL, name="output matrix not tied", tied=False),
]
#: Ways to read the usual run: samples, position, and arguments of RankMe.
READINGS = {
    "usual": (200, "first_answer", {}),
    "N = 50": (50, "first_answer", {}),
    "N = 1000": (1000, "first_answer", {}),
    "mean over the answer": (200, "answer_mean", {}),
    "centred": (200, "first_answer", {"center": True}),
    "eps = 1e-5": (200, "first_answer", {"eps": 1e-5}),
}


class Untied(GPT):
    """A GPT with an output matrix of its own, drawn like the embedding."""

    def __init__(self, scale, seed: int = 0) -> None:
        super().__init__(scale, seed)
        generator = torch.Generator().manual_seed(seed + 1_000_003)
        drawn = torch.empty(scale.vocabulary, scale.d_model).normal_(0.0, 0.02, generator=generator)
        self.head = nn.Parameter(drawn)

    def forward_buckets(self, buckets, collect=None, starts=None) -> Tensor:
        states: list[Tensor] = []
        super().forward_buckets(buckets, states, starts)
        if collect is not None:
            collect += states
        return states[-1] @ self.head.T


def trainer_of(scale: str, seed: int, variant: Variant) -> Trainer:
    settings = TrainSettings(
        STEPS, variant.batch_size, variant.learning_rate, warmup=variant.warmup
    )
    trainer = Trainer(scale, seed, task_levels(PAPER_TASKS, LEVELS), settings)
    if not variant.tied:
        trainer.model = Untied(SCALES[scale], seed)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            if parameter.ndim >= 2:
                parameter *= variant.initial
    trainer.optimizer = trainer._optimizer()
    return trainer


def measured(model: GPT, readings: dict) -> list[dict]:
    """RankMe of the final state by task-level and reading, with the largest singular values'
    shares of the usual one."""
    rows = []
    for level in MEASURED:
        for name, (samples, position, how) in readings.items():
            drawn = level.examples(DIAGNOSTIC_STREAM, 0, samples)
            tokens = torch.from_numpy(drawn.tokens)
            state = observe(model, tokens, drawn.answer_start, position=position).activations[-1]
            row = {"task": level.task, "level": level.level, "reading": name}
            row["rankme"] = float(gf.rankme(state, **how))
            if name == "usual":
                values = gf.singular_values(state)
                row["shares"] = (values[:3] / values.sum()).tolist()
            rows.append(row)
    return rows


def run(scale: str, seed: int, variant: Variant) -> dict:
    trainer = trainer_of(scale, seed, variant)
    readings = READINGS if variant is USUAL else {"usual": READINGS["usual"]}
    steps = [*range(LAST_CLOSE + 1), *range(LAST_CLOSE + APART, STEPS + 1, APART)]
    courses: dict = {}
    begin = time.perf_counter()
    for step in steps:
        trainer.advance(step)
        trainer.model.eval()
        for row in measured(trainer.model, readings):
            key = (row["task"], row["level"], row["reading"])
            courses.setdefault(key, []).append((row["rankme"], step, row.get("shares")))
    floors = []
    for (task, level, reading), course in courses.items():
        floor, at, shares = min(course[1:], key=lambda one: one[0])
        found = {"task": task, "level": level, "reading": reading, "initial": course[0][0]}
        found |= {"floor": floor, "step": at, "shares": shares, "final": course[-1][0]}
        floors.append(found)
    told = {"scale": scale, "seed": seed, **asdict(variant), "loss": float(trainer.loss)}
    return told | {"seconds": time.perf_counter() - begin, "floors": floors}


def main(out: str, scales: str = "nano,micro", seeds: str = "0,1") -> None:
    torch.set_num_threads(1)
    folder = Path(out) / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    for scale in scales.split(","):
        for seed in map(int, seeds.split(",")):
            for variant in VARIANTS:
                slug = variant.name.replace(" ", "-").replace("/", "-of-")
                path = folder / f"{scale}-{slug}-seed{seed}.json"
                if path.exists():
                    continue
                found = run(scale, seed, variant)
                write_json(path, found)
                mod = next(row for row in found["floors"] if row["task"] == "MOD")
                print(f"{path.stem}: MOD-1 {json.dumps(mod['floor'])}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
