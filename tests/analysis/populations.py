"""Populations with planted answers: tables of outcomes, and the records they come from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geomfast import records
from geomfast.analysis.population import outcomes
from geomfast.files import write_json

#: Probability of success at each scale, smallest first: nothing, then two groups, then all.
LADDER = {"1x8": 0.0, "1x16": 0.05, "2x16": 0.3, "2x32": 0.6, "4x32": 0.95}
STEPS = (0, 10, 30, 100, 300, 1000)


def table(scores: dict[str, Sequence[float]], **columns: Any) -> pd.DataFrame:
    """Outcomes from scores by scale, seeds counted from 0."""
    rows = [
        {"scale": scale, "seed": seed, "score": score} | columns
        for scale, values in scores.items()
        for seed, score in enumerate(values)
    ]
    return outcomes(pd.DataFrame(rows))


def two_groups(
    seeds: int, success: float, generator: np.random.Generator, samples: int = 200
) -> np.ndarray:
    """Accuracies of which a share lies about 0.8 and the rest about 0.03."""
    won = np.arange(seeds) < round(success * seeds)
    rate = np.where(won, generator.beta(16, 4, seeds), generator.beta(1, 60, seeds))
    return generator.permutation(generator.binomial(samples, rate) / samples)


def ladder(seeds: int = 60, seed: int = 0) -> pd.DataFrame:
    """The population of :data:`LADDER`, named by layers and width."""
    generator = np.random.default_rng(seed)
    return table({name: two_groups(seeds, p, generator).tolist() for name, p in LADDER.items()})


def population_records(
    scores: dict[str, np.ndarray],
    *,
    task: str = "COUNT",
    lengths: tuple[int, ...] = (8, 16),
    signal: float = 0.0,
    from_step: int = 30,
    seed: int = 0,
) -> pd.DataFrame:
    """Records of a population that ends with these scores at the longest length.

    Args:
        scores: by scale, a score per member.
        task: of all of them.
        lengths: the first is that of training, where all members succeed.
        signal: how much lower RankMe of the final state is, in its own spread, for members that
            will succeed, from ``from_step`` on.
        from_step: when that begins.
        seed: of the noise.
    """
    generator = np.random.default_rng(seed)
    found = []
    for scale, values in scores.items():
        won = np.asarray(values) >= 0.2
        shape = (len(STEPS), len(values))
        noise = {layer: generator.normal(size=shape) for layer in ("block 1", "final")}
        losses = generator.normal(1.0, 0.05, size=(*shape, len(lengths)))
        for index, step in enumerate(STEPS):
            for member, score in enumerate(values):
                common = {"scale": scale, "seed": member, "step": step}
                for layer, spread in noise.items():
                    shift = signal if layer == "final" and step >= from_step else 0.0
                    rank = 12.0 + spread[index, member] - shift * won[member]
                    rank_row = {"measure": "rankme", "level": lengths[0], "layer": layer}
                    found.append(common | rank_row | {"value": rank})
                for place, length in enumerate(lengths):
                    done = 1.0 if length == lengths[0] else score
                    now = done if step == STEPS[-1] else 0.0
                    row = common | {"level": length, "layer": ""}
                    loss = losses[index, member, place] - now
                    found.append(row | {"measure": "accuracy", "value": now})
                    found.append(row | {"measure": "answer_nats", "value": loss})
    frame = pd.DataFrame(found)
    frame["run"] = "count-" + frame["scale"] + "-seed" + frame["seed"].astype(str)
    frame["weights"] = frame["run"] + "-" + frame["step"].astype(str)
    return frame.assign(
        task=task, tokens=frame["step"] * 100, stderr=np.nan, n=200, settings="s0", data="d0",
        backend="reference", device="cpu", seconds=0.0,
    )[[name for name, _, _ in records.COLUMNS]]  # fmt: skip


def write_population(out: Path, frame: pd.DataFrame, settings: dict[str, Any]) -> None:
    """Put records and settings where a population would have written them."""
    for step, rows in frame.groupby("step"):
        part = records.part_name(int(str(step)), set(rows["measure"]))
        records.write_part(out / "records" / "all" / part, rows.to_dict("records"))
    write_json(out / "settings.json", json.loads(json.dumps(settings)))
