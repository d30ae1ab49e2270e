"""Settings of sweeps of two easy task-levels, as small as a test needs."""

from pathlib import Path
from typing import Any

from geomfast.runs.settings_file import write_settings
from geomfast.sweep.folder import merge_settings
from geomfast.sweep.plan import Settings


def tiny(steps: int, dense_until: int, checkpoints: int, samples: int, **more: Any) -> Settings:
    """Joint training on COPY and MOD of level 1, with every second step a checkpoint at first."""
    return Settings(
        mixture="joint",
        tasks=("COPY", "MOD"),
        levels=(1,),
        steps=steps,
        batch_size=8,
        learning_rate=None,
        precision="fp32",
        dense_until=dense_until,
        dense_every=2,
        checkpoints=checkpoints,
        samples=samples,
        **more,
    )


def prepare_folder(
    out: Path, settings: Settings, grid: dict[str, Any], call: dict[str, Any]
) -> None:
    """Write or extend OUT's settings.json, as the command does."""
    write_settings(out, merge_settings(out, settings, grid), call)
