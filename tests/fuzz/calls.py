"""Wrong calls of public functions: each raises an error of its own that names the argument.

``python -m tests.fuzz.calls FIRST COUNT`` tries the seeds from FIRST on and says what came out.
"""

from __future__ import annotations

import math
import random
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import geomfast as gf
from geomfast import losses
from geomfast.files import FileError
from tests.fuzz.seeds import asked, outcomes

X = torch.linspace(-1.0, 1.0, 24).sin().reshape(6, 4)
HUGE = 10**30


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))


def loss(model: nn.Module, batch: Any) -> Any:
    return model(batch).square().sum(1)


def sparse() -> torch.Tensor:
    return X.to_sparse()


MATRICES: list[Any] = [None, "text", 3, True, [[1.0, 2.0], [3.0, 4.0]], np.ones((3, 2)), object()]
MATRICES += [torch.ones(3, 2, dtype=torch.int64), torch.ones(3, 2, dtype=torch.bool)]
MATRICES += [torch.ones(3, 2, dtype=torch.complex64), torch.ones(0, 3), torch.ones(3, 0)]
MATRICES += [torch.ones(4), torch.tensor(1.0), torch.tensor([[1.0, math.nan], [0.0, 1.0]])]
MATRICES += [torch.tensor([[1.0, math.inf], [0.0, 1.0]]), X.to("meta"), sparse()]
LABELS: list[Any] = [None, "text", 3, [0, 1, 0, 1, 0, 1], torch.ones(6), torch.ones(5).long()]
LABELS += [torch.ones(6, 1).long(), torch.ones(0).long(), torch.ones(6).long().to("meta")]
COUNTS: list[Any] = [
    None,
    "3",
    2.5,
    math.nan,
    math.inf,
    True,
    -1,
    0,
    -HUGE,
    HUGE,
    [3],
    1j,
    object(),
]
COUNTS += [torch.ones(2), np.ones(2)]
SEEDS: list[Any] = [None, "3", 2.5, math.nan, True, -HUGE, HUGE, [3], torch.ones(2)]
NUMBERS: list[Any] = ["x", None, math.nan, math.inf, -math.inf, -1.0, True, 1j, [1.0], object()]
NUMBERS += [torch.ones(2), "0.1"]
FLAGS: list[Any] = [None, "yes", 2, torch.ones(2), [], 0.5]
MODELS: list[Any] = [None, "model", 3, loss, nn.Linear, [net()], X, nn.Tanh(), object()]
LOSSES: list[Any] = [None, "loss", 3, X, nn.CrossEntropyLoss, object()]
LOSSES += [
    lambda model, batch: loss(model, batch).mean(),
    lambda model, batch: loss(model, batch)[:-1],
    lambda model, batch: loss(model, batch)[:, None],
    lambda model, batch: None,
    lambda model, batch: loss(model, batch).tolist(),
    lambda model, batch: loss(model, batch).detach(),
    lambda model, batch: loss(model, batch).long(),
    lambda model, batch: loss(model, batch) * math.nan,
    lambda model, batch: loss(model, batch) / 0.0,
    lambda model, batch: batch.square().sum(1),
]
DATA: list[Any] = [
    None,
    "text",
    b"bytes",
    3,
    True,
    [],
    (),
    {},
    object(),
    X[:0],
    [X[:0]],
    torch.ones([]),
]
DATA += [{"x": "text"}, ("a", "b"), [3, 4], X * math.nan, net(), loss, X.to("meta")]
PARAMS: list[Any] = [2.5, "nonsense", [], [3], True, "!*", b"0.weight", object(), [None], -1, ["!"]]
WORDS: list[Any] = ["nonsense", None, 3, "", ["largest"], True, object()]


def _outputs(model: nn.Module, batch: Any) -> Any:
    return model(batch)


OUTPUTS: list[Any] = [None, "f", 3, X, nn.CrossEntropyLoss, object()]
OUTPUTS += [
    lambda model, batch: model(batch)[:-1],
    lambda model, batch: model(batch)[:, 0],
    lambda model, batch: model(batch)[..., None],
    lambda model, batch: model(batch).mean(0, True),
    lambda model, batch: None,
    lambda model, batch: model(batch).tolist(),
    lambda model, batch: model(batch).argmax(1),
    lambda model, batch: model(batch) * math.nan,
]


@dataclass(frozen=True)
class Function:
    """A public function with arguments that are right, and wrong ones for each.

    Attributes:
        call: the function.
        right: by name.
        wrong: by name, those tried in place of the right one.
        also: by name, what a message may say in place of the name.
    """

    call: Callable[..., Any]
    right: dict[str, Any]
    wrong: dict[str, list[Any]]
    also: dict[str, tuple[str, ...]]


def without(values: list[Any], *allowed: Any) -> list[Any]:
    """Those that are not allowed, by identity or as equal numbers and words of one type."""
    kept = []
    for value in values:
        plain = isinstance(value, int | float | str | type(None))
        if not plain or not any(type(value) is type(a) and value == a for a in allowed):
            kept.append(value)
    return kept


def functions(root: Path) -> dict[str, Function]:
    """All of them; paths lie in a folder that holds a file, and a folder with no records."""
    (root / "file").write_text("not of geomfast")
    (root / "empty").mkdir()
    (root / "bad").mkdir()
    (root / "bad" / "part.parquet").write_text("not a table")
    file, nowhere = root / "file", root / "nowhere"
    model = {"model": net(), "loss_fn": loss}
    models = {"model": MODELS, "loss_fn": LOSSES}
    said = {"model": ("parameter",), "batch": ("data", "loss", "Meta", "meta")}
    said |= {"data": ("batch", "loss", "meta"), "loss_fn": ("loss", "gradient of sample")}
    said |= {"layers": ("nonsense",), "batch": (*said["batch"], "gradient of sample")}
    gradients = Function(
        gf.gradient_gram,
        {**model, "batch": X},
        {**models, "batch": DATA, "center": FLAGS, "per_layer": FLAGS, "check": FLAGS}
        | {"max_memory": without(COUNTS, 0), "params": without(PARAMS, -1)},
        said,
    )
    of_gradients = {"batch": DATA, "params": PARAMS, **models}
    hessian = {**models, "data": DATA, "seed": SEEDS, "matrix": WORDS, "params": PARAMS}
    tracker: dict[str, list[Any]] = {
        "model": [m for m in MODELS if not isinstance(m, nn.Tanh)],
        "loss_fn": without(LOSSES[:6], None)[:5] + LOSSES[6:8],
        "data": [None, "text", 3, [], (), object(), X[:0]],
        "measures": ["nonsense", [], None, 3, ["rankme", "rankme", 3], [None], "llc,", ""],
        "every": ["nonsense", 0, -1, None, 2.5, math.nan, [], True],
        "out": [None, 3, "", file, file / "under", b"", object(), root / ("n" * 300)],
        "max_overhead": ["x", math.nan, -1.0, True, [], 1j],
        "total_steps": ["x", -1, 2.5, math.nan, True, []],
        "options": [{}, "x", 3, []],
        "layers": [[3], [], ["nonsense"], ["0", "0"], 3, [None], "nonsense"],
        "name": ["", "a/b", "..", None, 3, "a\nb", "\x1b[31m"],
        "run": ["", "a/b", "..", None, 3, "a\\b", "n" * 300],
        "scale": ["", "a/b", "..", 3, "\x1b[31m"],
        "seed": [None, "x", 2.5, HUGE, -HUGE, True, []],
        "states": [3, "x", {}, []],
        "device": ["nonsense", 3.5, [], "cuda:99"],
        "log_to": ["nonsense", 3, object()],
        "raise_failures": [None, 1, "yes"],
    }
    ids = torch.tensor([[1, 2, 3], [3, 2, 1]])
    language = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5))
    return {
        "singular_values": Function(gf.singular_values, {"x": X}, {"x": MATRICES}, said),
        "rankme": Function(
            gf.rankme, {"x": X}, {"x": MATRICES, "center": FLAGS, "eps": NUMBERS}, said
        ),
        "effective_rank": Function(
            gf.effective_rank,
            {"values": torch.ones(3)},
            {"values": [v for v in MATRICES if not _is_values(v)] + [torch.tensor([-1.0, 1.0])]},
            said,
        ),
        "gradient_gram": gradients,
        "fisher_effective_rank": Function(
            gf.fisher_effective_rank, gradients.right, of_gradients, said
        ),
        "gradient_covariance_rank": Function(
            gf.gradient_covariance_rank, gradients.right, of_gradients, said
        ),
        "hessian_top_eigenvalues": Function(
            gf.hessian_top_eigenvalues,
            {**model, "data": X},
            hessian
            | {"k": COUNTS, "tol": without(NUMBERS, math.inf), "ends": WORDS, "per_layer": FLAGS}
            | {"max_iterations": without(COUNTS, HUGE)}
            | {"start": ["x", 3, True, torch.ones(3), torch.ones(23) * math.nan, [1.0]]},
            said,
        ),
        "hessian_trace": Function(
            gf.hessian_trace,
            {**model, "data": X},
            hessian | {"probes": COUNTS, "per_layer": FLAGS, "per_parameter": FLAGS},
            said,
        ),
        "hessian_operator": Function(
            gf.hessian_operator,
            {**model, "data": X},
            {name: values for name, values in hessian.items() if name != "seed"}
            | {"process_group": ["x", 3, object()]},
            said,
        ),
        "hessian_diagonal": Function(
            gf.hessian_diagonal,
            {**model, "data": X},
            hessian | {"probes": COUNTS, "exact": FLAGS},
            said,
        ),
        "inverse_hessian_product": Function(
            gf.inverse_hessian_product,
            {**model, "data": X, "v": torch.ones(23), "damping": 9.0},
            {name: values for name, values in hessian.items() if name != "seed"}
            | {
                "v": [
                    None,
                    "x",
                    3,
                    [1.0],
                    torch.ones(3),
                    torch.ones(23).long(),
                    1j * torch.ones(23),
                ]
            }
            | {"v ": [torch.full((23,), math.nan), torch.ones(23, 1), np.ones(23)]}
            | {"damping": NUMBERS, "tol": without(NUMBERS, math.inf)}
            | {"max_iterations": without(COUNTS, HUGE)},
            said,
        ),
        "gradient_norms": Function(
            gf.gradient_norms,
            {**model, "batch": X},
            {**models, "batch": DATA, "params": PARAMS, "per_layer": FLAGS, "check": FLAGS},
            said,
        ),
        "ntk": Function(
            gf.ntk,
            {"model": net(), "output_fn": _outputs, "batch": X},
            {"model": MODELS, "batch": DATA, "params": PARAMS, "check": FLAGS}
            | {"aggregate": without(WORDS, None), "output_fn": OUTPUTS},
            said | {"output_fn": ("output", "gradient of sample")},
        ),
        "hessian_density": Function(
            gf.hessian_density,
            {**model, "data": X, "probes": 2, "iterations": 4},
            hessian | {"probes": COUNTS, "iterations": COUNTS, "width": without(NUMBERS, None)},
            said,
        ),
        "llc": Function(
            gf.llc,
            {**model, "data": X, "lr": 1e-4, "chains": 2, "draws": 4, "burn_in": 1},
            models
            | {"data": DATA, "lr": NUMBERS, "nbeta": without(NUMBERS, None), "chains": COUNTS}
            | {
                "draws": COUNTS,
                "burn_in": without(COUNTS, 0),
                "localization": without(NUMBERS, None),
            }
            | {"batch_size": without(COUNTS, None), "at_once": without(COUNTS, None, HUGE)}
            | {"preconditioner": ["nonsense", 3, True, [], {}], "seed": [*SEEDS, -1]}
            | {"params": PARAMS, "common_batches": FLAGS, "stacked": without(FLAGS, None)}
            | {"observe": [3, "x", [], {3: X}, {"": X}, {"data": X}, {"a": 3}, {"a": (loss, 3)}]}
            | {"keep_losses": [None, 3, "", b"x", object(), [], file, root]}
            | {
                "curvature": without(NUMBERS, None, -1.0, math.inf, -math.inf),
                "progress": [None, 3, "x"],
            },
            said,
        ),
        "probe_accuracy": Function(
            gf.probe_accuracy,
            {"x": X, "labels": torch.tensor([0, 1, 0, 1, 0, 1]), "folds": 3},
            {"x": MATRICES, "labels": LABELS, "groups": without(LABELS, None)}
            | {"folds": without(COUNTS, HUGE), "seed": SEEDS}
            | {
                "penalties": [
                    None,
                    3,
                    "x",
                    [],
                    [0.0],
                    [-1.0],
                    [math.nan],
                    ["x"],
                    [math.inf],
                    [None],
                ]
            },
            said,
        ),
        "influence": Function(
            gf.influence,
            {**model, "data": X, "lr": 1e-4, "chains": 2, "draws": 4, "burn_in": 1},
            models | {"data": DATA, "tokens": FLAGS, "queries": [3, "x", [], {}, X[:0]]},
            {**said, "queries": ("observe",)},
        ),
        "susceptibility": Function(
            gf.susceptibility,
            {**model, "data": X, "lr": 1e-4, "chains": 2, "draws": 4, "burn_in": 1}
            | {"components": {"first": "0.*"}},
            models
            | {"data": DATA, "tokens": FLAGS, "reference": WORDS, "seed": [*SEEDS, -1]}
            | {"components": [None, 3, "x", [], {}, {3: "0.*"}, {"a": "nonsense"}, {"a": 3}]}
            | {"localization": ["norm", "x"], "keep_losses": [3, "", b"x", [], file, root]},
            {**said, "components": ("component", "params")},
        ),
        "load_losses": Function(
            gf.load_losses,
            {"path": root / "kept"},
            {"path": [None, 3, nowhere, file, file / "under", root / "empty", b"x", object()]},
            {"path": ("file", "nowhere", "empty", "kept losses")},
        ),
        "load_records": Function(
            gf.load_records,
            {"path": root / "empty"},
            {"path": [None, 3, "", nowhere, file, file / "under", root / "empty", root / "bad"]},
            {"path": ("file", "nowhere", "empty", "bad", "no such")},
        ),
        "next_token": Function(
            losses.next_token,
            {"model": language, "batch": ids},
            {"model": [None, "x", 3, object(), nn.Embedding, lambda x: None, lambda x: "logits"]}
            | {"batch": [None, "x", 3, [], {}, (), ids[0], ids[:, :1], ids.float()]}
            | {"batch ": [{"input_ids": ids, "labels": ids[:1]}, {"input_ids": [[1, 2]]}]},
            {"model": ("logits",), "batch": ("token ids",), "batch ": ("labels", "token")},
        ),
        "Tracker": Function(
            gf.Tracker,
            {"model": net(), "data": X, "loss_fn": loss, "measures": ("rankme", "fisher_rank")}
            | {"layers": ["0", "2"], "out": root / "tracked"},
            tracker,
            said | {"out": ("file", "n" * 20), "run": ("n" * 20,), "log_to": ("dashboard",)},
        ),
    }


def _is_values(value: Any) -> bool:
    """Whether it is a spectrum: also one of a single number, and of zeros in any shape."""
    real = isinstance(value, torch.Tensor) and value.is_floating_point() and value.dim() > 0
    return (
        real
        and value.shape[-1] > 0
        and not value.is_meta
        and bool((value.to_dense() >= 0).all() and value.to_dense().isfinite().all())
    )


def tried(seed: int, every: dict[str, Function]) -> str:
    """What came of a seed's call: named, or what is wrong with its outcome."""
    rng = random.Random(seed)
    name = rng.choice(list(every))
    function = every[name]
    argument = rng.choice(list(function.wrong))
    value = rng.choice(function.wrong[argument])
    shown = f"{name}({argument.strip()}={_shown(value)})"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = function.call(**function.right | {argument.strip(): value})
    except (TypeError, ValueError, FileError, FileNotFoundError) as error:
        message = str(error)
        if any(word in message for word in (argument.strip(), *function.also.get(argument, ()))):
            return "named"
        trace = "".join(traceback.format_exception(error)[-2:])
        return f"unnamed: {shown}: {type(error).__name__}: {message[:300]}\n{trace}"
    except Exception as error:
        trace = "".join(traceback.format_exception(error)[-3:])
        return f"other: {shown}: {type(error).__name__}: {str(error)[:300]}\n{trace}"
    if isinstance(found, gf.Tracker):
        found.close()
    return f"accepted: {shown}: {_shown(found)}"


def _shown(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {tuple(value.shape)} on {value.device}"
    return f"{value!r:.100}"


def run(seeds: range, say: Callable[[str], object]) -> Counter[str]:
    """Try seeds; counts of what came out, of which only "named" is good."""
    with tempfile.TemporaryDirectory() as root:
        every = functions(Path(root))
        return outcomes(seeds, lambda seed: tried(seed, every), ["named"], say)


def main() -> None:
    """Try as many seeds as are asked for."""
    seeds = asked("calls", __doc__)
    counts = run(seeds, lambda text: print(text, flush=True))
    print(f"{len(seeds)} calls from seed {seeds.start}:", dict(counts))
    sys.exit(set(counts) != {"named"})


if __name__ == "__main__":
    main()
