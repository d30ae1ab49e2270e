"""Records of every way to measure, with every measure: ``python -m tests.unchanged.make``.

They are kept in ``records.parquet``, made before the catalogue of measures and its engine were
built, so that a change of how measures are arranged is seen not to be one of their values.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pandas as pd
import torch
from torch import nn

import geomfast as gf
from geomfast.machine import describe
from geomfast.records import load_records
from tests.fuzz.folders import POPULATION, invoke
from tests.lm.language_models import WORDS, save

KEPT = Path(__file__).with_name("records.parquet")
#: Where they were made, for values to be compared to the last bit there.
MACHINE = "machine"
_SHORT = ["--llc-lr", "2e-5", "--llc-localization", "3000"]
_SHORT += ["--llc-chains", "2", "--llc-draws", "8", "--threads", "1"]
_SWEEP = ["--tasks", "COPY,MOD", "--levels", "1", "--scales", "nano", "--steps", "6"]
_SWEEP += ["--samples", "12", "--checkpoints", "2", "--batch-size", "8", "--keep", "all", *_SHORT]
_SWEEP += ["--trace-probes", "6", "--density-probes", "1", "--density-iterations", "6"]
_PROBES = "\n".join(
    json.dumps({"prompt": " ".join(words[:3]), "choices": words[3:], "answer": index % 2})
    for index in range(8)
    for words in [[WORDS[(7 + 3 * index + k) % len(WORDS)] for k in range(5)]]
)


def make(root: Path) -> pd.DataFrame:
    """The records of all of them, one table; ``way`` says which."""
    ways = {
        name: root / name
        for name in ("alone", "stacked", "population", "series", "language model", "tracker")
    }
    invoke("sweep", str(ways["alone"]), *_SWEEP, "--measures", "all", "--stack", "never")
    seeds = ["--seeds", "0,1", "--measures", "rankme,probe_accuracy,hessian_top"]
    invoke("sweep", str(ways["stacked"]), *_SWEEP, *seeds, "--stack", "always")
    invoke("population", str(ways["population"]), *POPULATION, "--stack", "always")
    out = ["--out", str(ways["series"]), "--measures", "all", *_SHORT]
    invoke("measure", str(ways["alone"]), *out)
    _language_model(root, ways["language model"])
    _tracked(ways["tracker"])
    tables = [load_records(out).assign(way=way) for way, out in ways.items()]
    found = pd.concat(tables, ignore_index=True)
    # Times, and what the name of the temporary folder is part of.
    found = found[~found["measure"].isin(["overhead", "tracker_overhead"])]
    return found.drop(columns=["seconds"]).reset_index(drop=True)


def _language_model(root: Path, out: Path) -> None:
    for step in (0, 10):
        torch.manual_seed(step)
        save(root / "lm" / f"step{step}")
    probes = root / "sums.jsonl"
    probes.write_text(_PROBES + "\n")
    measures = "rankme,fisher_rank,gradient_covariance_rank,hessian_top,hessian_trace,llc"
    arguments = ["--probes", str(probes), "--measures", measures, "--out", str(out), *_SHORT]
    arguments += ["--llc-burn-in", "50"]
    invoke("measure", str(root / "lm"), *arguments)


def _tracked(out: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))
    x, y = torch.randn(20, 4), torch.arange(20) % 3
    loss = nn.CrossEntropyLoss(reduction="none")

    def loss_fn(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return loss(model(batch[0]), batch[1])

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tracker = gf.Tracker(
        model,
        loss_fn,
        (x, y),
        measures=(
            *("rankme", "fisher_rank", "gradient_covariance_rank"),
            *("hessian_top", "hessian_trace", "llc"),
        ),
        layers=["1", "3"],
        samples=16,
        llc={"lr": 2e-5, "localization": 3000.0, "chains": 2, "draws": 20, "burn_in": 50},
        hessian_trace={"probes": 6},
        out=out,
        every=1,
        max_overhead=None,
    )
    for step in range(3):
        tracker.step(step, loss=1.0)
        optimizer.zero_grad()
        loss_fn(model, (x, y)).mean().backward()
        optimizer.step()
    tracker.close()


def here() -> str:
    """What the last bits of a value depend on."""
    return f"{describe()}; torch {torch.__version__}"


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root:
        found = make(Path(root))
    found.assign(**{MACHINE: here()}).to_parquet(KEPT, index=False, compression="zstd")
    print(f"{KEPT}: {len(found)} values of {found['way'].nunique()} ways to measure")


if __name__ == "__main__":
    main()
