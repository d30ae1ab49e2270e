"""Sizes that names tell, and runs in the order of their sizes."""

import math

import pandas as pd
import pytest

from geomfast.analysis.trajectories import in_order
from geomfast.labels import size_in


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("70m", 7e7),
        ("pythia-1.4b", 1.4e9),
        ("pythia-v1.1-12B-bf16", 1.2e10),
        ("EleutherAI/pythia-160M-deduped", 1.6e8),
        ("0.5k", 500.0),
    ],
)
def test_sizes_in_names(name: str, size: float) -> None:
    assert size_in(name) == size


@pytest.mark.parametrize("name", ["", "nano", "gpt2", "v1.1", "step1000", "70mb", "x70m", "m70"])
def test_names_without_a_size(name: str) -> None:
    assert math.isnan(size_in(name))


def test_known_scales_come_first_then_sizes_then_the_alphabet() -> None:
    scales = ["beta", "12b", "1.4b", "alpha", "micro", "70m", "nano", "160m"]
    frame = pd.DataFrame({"scale": scales, "seed": 0, "run": "r", "task": "t", "level": 1})
    found = in_order(frame)["scale"].tolist()
    assert found == ["nano", "micro", "70m", "160m", "1.4b", "12b", "alpha", "beta"]
