"""The tracker as a callback of Hugging Face's Trainer and of Lightning's."""

from __future__ import annotations

import importlib
import math
import sys
from typing import Any

from geomfast.estimators.checks import LossFunction
from geomfast.losses import next_token
from geomfast.tracker.tracker import Tracker

#: Where Lightning's own Callback is: the two packages are alike, and have one each.
_LIGHTNING = ("lightning.pytorch", "pytorch_lightning")


def hugging_face(data: Any, loss_fn: LossFunction | None = next_token, **options: Any) -> Any:
    """A callback that tracks what a transformers.Trainer trains.

    ``Trainer(model, args, callbacks=[hugging_face(batch, out="out/mine")], ...)`` measures from the
    untrained network to the last step; a training resumed from a checkpoint is resumed here too.
    The loss that the Trainer logged last, of the ``logging_steps`` before, is recorded as
    ``train_loss``.

    Args:
        data: the samples to measure on: a batch such as the model takes, or an iterable of them; or
            several sets by name, as :class:`geomfast.Tracker` takes them.
        loss_fn: one loss per sample; the default is that of causal language models.
        options: of :class:`geomfast.Tracker`, ``out`` among them. ``total_steps`` and ``seed`` are
            the Trainer's own, unless they are given.

    Returns:
        A transformers.TrainerCallback; its ``tracker`` is there while training runs, and after.

    Raises:
        ImportError: transformers is not installed.
        TypeError: ``out`` is missing.
    """
    _require_out(options)
    try:
        from transformers import TrainerCallback
    except ImportError as error:
        raise ImportError('transformers is missing: pip install "geomfast[hf]"') from error

    class HuggingFaceTracker(TrainerCallback):
        tracker: Tracker | None = None
        loss: float | None = None

        def on_train_begin(
            self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
        ) -> None:
            if self.tracker is not None:  # of a training before this one, which may have failed
                self.tracker.close(last=False)
            known = {"total_steps": state.max_steps, "seed": args.seed}
            self.tracker = Tracker(model, loss_fn, data, **{**known, **options})
            self.tracker.step(state.global_step)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if self.tracker is not None:
                self.tracker.step(state.global_step, loss=self.loss)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            self.loss = (logs or {}).get("loss", self.loss)

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if self.tracker is not None:
                self.tracker.close()

    return HuggingFaceTracker()


def lightning(loss_fn: LossFunction | None, data: Any, **options: Any) -> Any:
    """A callback that tracks what a Lightning Trainer trains.

    ``Trainer(callbacks=[lightning(loss_fn, batch, out="out/mine")], ...)``, with Trainer of
    lightning.pytorch or of pytorch_lightning. The loss that ``training_step`` returns is recorded
    as ``train_loss``.

    Args:
        loss_fn: ``loss_fn(module, batch) -> (N,)`` of the LightningModule, one loss per sample.
        data: the samples to measure on: a batch, or an iterable of batches; or several sets by
            name, as :class:`geomfast.Tracker` takes them.
        options: of :class:`geomfast.Tracker`, ``out`` among them. ``total_steps`` is the Trainer's
            own, unless it is given.

    Returns:
        A Callback; its ``tracker`` is there while training runs, and after.

    Raises:
        ImportError: neither package is installed.
        TypeError: ``out`` is missing.
    """
    _require_out(options)

    class LightningTracker(_lightning_callback()):
        tracker: Tracker | None = None

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            steps = trainer.estimated_stepping_batches
            known = {"total_steps": int(steps) if math.isfinite(steps) else None}
            self.tracker = Tracker(pl_module, loss_fn, data, **{**known, **options})
            self.tracker.step(trainer.global_step)

        def on_train_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            if self.tracker is not None:
                loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
                self.tracker.step(trainer.global_step, loss=loss)

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            if self.tracker is not None:
                self.tracker.close()

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            if self.tracker is not None:
                self.tracker.__exit__(type(exception), exception, None)

    return LightningTracker()


def _require_out(options: dict[str, Any]) -> None:
    if "out" not in options:
        raise TypeError("out is missing: the folder of the records")


def _lightning_callback() -> Any:
    """Callback of the package that is in use, or else of the first that is installed."""
    for name in sorted(_LIGHTNING, key=lambda name: name not in sys.modules):
        try:
            return importlib.import_module(name).Callback
        except ImportError:
            continue
    raise ImportError('lightning is missing: pip install "geomfast[lightning]"')
