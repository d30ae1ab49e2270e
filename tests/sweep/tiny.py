"""Settings of sweeps of two easy task-levels, as small as a test needs."""

from typing import Any

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
