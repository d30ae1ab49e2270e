"""Results that arXiv:2602.15997 reports, by version; they changed between versions.

The keys are the names of claims (:class:`geomfast.analysis.claim.Claim`); a claim that is absent
from a version is one it says nothing of.  Texts in quotation marks are the paper's words; a number
stands alone.
"""

from __future__ import annotations

from typing import Any

#: RankMe of the final state at the floor of MOD, at every size, in v1, v3 and v4.
MOD_FLOOR = 2.0

_FLOORS: dict[str, Any] = {
    "collapsed": "to a floor, at every size",
    "mod_floor": MOD_FLOOR,
    "task_specific_floors": "task-specific",
    "scale_invariant_floors": "scale-invariant over 210x",
}
_PYTHIA: dict[str, Any] = {
    "pythia_global": "the global pattern replicates",
    "pythia_tasks": "no precursor of single tasks",
}

REFERENCES: dict[str, dict[str, Any]] = {
    "v1": {
        **_FLOORS,
        "emerged": '"120+" events',
        "top_down": "32/32 task x model",
        "geometry_leads": "75-100% of hard tasks",
        "llc_synchronous": "synchronous, 0/24 precursor",
        "hessian_lags": "lags, 17% precursor",
        "coarse_difficulty": "0.57-0.90",
        "within_class": "27%",
        "swaps": "26%",
        **_PYTHIA,
    },
    "v3": {
        **_FLOORS,
        "emerged": "119 of 120 combinations",
        "top_down": "28/32 task x model",
        "geometry_leads": "100% of hard tasks",
        "llc_synchronous": "synchronous, 0/24 precursor",
        "hessian_lags": "lags",
        "within_class": "52% (easy) to 69% (hard)",
        "swaps": "26%",
        **_PYTHIA,
    },
    "v4": {
        **_FLOORS,
        "emerged": "144 combinations (six sizes)",
        "top_down": '"top-down", no count',
        "geometry_leads": "only RankMe reliably precedes",
        "only_rankme_leads": "only RankMe reliably precedes",
        **_PYTHIA,
        "pythia_tasks": "one hard task (BBH logical deduction) shows a gap of about 49,000 steps",
        "probe_first": "hidden states contain the answer before the model can act on it",
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
