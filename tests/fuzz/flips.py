"""One bit of a finished folder flipped: what is read is as before, or the damage is named.

``python -m tests.fuzz.flips FIRST COUNT`` tries the seeds from FIRST on and says what came out.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from geomfast.analysis import check
from geomfast.files import FileError
from geomfast.records import load_records
from geomfast.runs.errors import PlanError
from geomfast.runs.failures import failed_before
from geomfast.runs.model_folder import KIND as SERIES
from geomfast.runs.recorded import recorded
from geomfast.runs.settings_file import read_settings
from geomfast.runs.timing import wall_time
from geomfast.sweep.eigenvectors import Eigenvectors
from geomfast.sweep.folder import read_folder
from geomfast.testbed.training import checkpoints
from geomfast.tracker.folder import KIND as TRACKER
from tests.fuzz.folders import make
from tests.fuzz.seeds import asked, outcomes

KINDS = {"alone": "sweep", "stacked": "sweep", "population": "population"}
KINDS |= {"series": SERIES, "tracker": TRACKER}
#: What a reader of the folder is told; a file that only geomfast's own output has is rewritten.
_OUTPUT = (".lock", ".settings.lock")
#: What may come of a flipped bit.
GOOD = ("same", "named")
#: A key that a flip has renamed is one that nothing reads.
_READ = ("format", "settings", "recipes", "grid", "groups", "chance", "hashes", "calls", "tracking")


def read(out: Path, kind: str) -> dict[str, Any]:
    """All that report, resume and measuring read of a folder."""
    content = read_settings(out / "settings.json", kind)
    frame = load_records(out)
    check(frame)
    found: dict[str, Any] = {
        "settings": {name: content[name] for name in _READ if name in content},
        "records": frame,
        "wall": wall_time(out, frame),
        "failed": failed_before(out),
    }
    if kind == "sweep":
        found["specs"] = read_folder(out)
    for run in sorted((out / "records").iterdir()):
        found[f"recorded {run.name}"] = recorded(run)
    for run in sorted((out / "checkpoints").glob("*")):
        found[f"saved {run.name}"] = checkpoints.steps_saved(run)
        for step in checkpoints.steps_kept(run):
            folder = run / checkpoints.folder_name(step)
            found[f"meta {folder}"] = {**checkpoints.read_meta(folder), "loss": None}
            found[f"weights {folder}"] = checkpoints.read_weights(folder)
            if step in checkpoints.steps_saved(run):
                found[f"optimizer {folder}"] = checkpoints.read_optimizer(folder)
        found[f"vectors {run.name}"] = Eigenvectors(run, 1 << 40).before
    return found


def same(one: Any, other: Any) -> bool:
    """Whether two readings are the same, to the bit."""
    if isinstance(one, pd.DataFrame):
        return isinstance(other, pd.DataFrame) and one.equals(other)
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return one == other


def flip(path: Path, draw: random.Random) -> Callable[[], None]:
    """Flips one bit of a file; gives what flips it back."""
    content = path.read_bytes()
    damaged = bytearray(content)
    damaged[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(damaged)

    def back() -> None:
        path.write_bytes(content)

    return back


def tried(seed: int, folders: dict[str, Path], before: dict[str, dict[str, Any]]) -> str:
    """What one flipped bit leads to: ``same``, ``named: ...``, or a fault, in words."""
    draw = random.Random(seed)
    name = draw.choice(sorted(folders))
    files = [
        path
        for path in sorted(folders[name].rglob("*"))
        if path.is_file() and path.stat().st_size and path.name not in _OUTPUT
    ]
    path = draw.choice(files)
    undo = flip(path, draw)
    try:
        now = read(folders[name], KINDS[name])
    except (FileError, PlanError) as error:
        said = str(error)
        return "named" if path.name in said or path.parent.name in said else f"unnamed: {said}"
    except Exception as error:
        return f"traceback: {path.name}: {type(error).__name__}: {error}"
    finally:
        undo()
    wrong = [key for key in before[name] if not same(before[name][key], now.get(key))]
    return f"silent: {path.name}: {wrong}" if wrong or now.keys() != before[name].keys() else "same"


def main() -> None:
    seeds = asked("flips", __doc__)
    with tempfile.TemporaryDirectory() as root:
        folders = make(Path(root))
        before = {name: read(out, KINDS[name]) for name, out in folders.items()}
        counts = outcomes(seeds, lambda seed: tried(seed, folders, before), GOOD, print)
    print(f"{len(seeds)} flipped bits from seed {seeds.start}:", dict(counts))
    sys.exit(not set(counts) <= set(GOOD))


if __name__ == "__main__":
    main()
