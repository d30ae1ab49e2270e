"""What arXiv:2602.15997 reports, by version; its results changed between versions.

Texts in quotation marks are the paper's words; a number stands alone.
"""

from __future__ import annotations

from typing import Any

#: RankMe of the final state at the floor of MOD, at every size, in v1, v3 and v4.
MOD_FLOOR = 2.0

REFERENCES: dict[str, dict[str, Any]] = {
    "v1": {
        "mod_floor": MOD_FLOOR,
        "top_down": "32/32 task x model",
        "emerged": '"120+" events',
    },
    "v3": {
        "mod_floor": MOD_FLOOR,
        "top_down": "28/32 task x model",
        "emerged": "119 of 120 combinations",
    },
    "v4": {
        "mod_floor": MOD_FLOOR,
        "top_down": '"top-down", no count',
        "emerged": "144 combinations (six sizes)",
    },
}


def reference(version: str) -> dict[str, Any]:
    """Reference values of one version of the paper.

    Raises:
        ValueError: no such version here.
    """
    if version not in REFERENCES:
        raise ValueError(f"version must be one of {sorted(REFERENCES)}, got {version!r}")
    return REFERENCES[version]
