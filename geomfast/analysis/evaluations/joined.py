"""Geometry beside the behaviour of benchmarks, by run and step.

Geometry is measured on samples, of probe sets for instance, and a benchmark's own questions are
rarely among them.  So every task is set beside the geometry of a set that has its name, or else of
the set of its kind, or else of the whole mixture: rows of that geometry are repeated under the
task's name, and every analysis of a sweep runs on them.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from geomfast.analysis.trajectories import TRAJECTORY
from geomfast.labels import MIXTURE

#: Records of the geometry's own behaviour, which is that of its samples.
_BEHAVIOUR = ("accuracy", "accuracy_by_size", "answer_logprob", "token_accuracy", "loss")
BESIDE_COLUMNS = ["run", "task", "set", "why"]


def beside(
    behaviour: pd.DataFrame, geometry: pd.DataFrame, kinds: Mapping[str, str]
) -> pd.DataFrame:
    """The set of samples whose geometry stands beside each task.

    Args:
        behaviour: records of benchmarks.
        geometry: records of measures.
        kinds: kind by task.

    Returns:
        One row per run and task that there is geometry for: ``set`` (a task of the geometry; empty
        for the mixture) and ``why`` (``name``, ``kind`` or ``mixture``).
    """
    found = []
    for run, own in geometry.groupby("run", sort=False):
        sets = set(own["task"])
        for task in sorted(set(behaviour.loc[behaviour["run"] == run, "task"])):
            of_kind = kinds.get(task, "")
            if task in sets:
                found.append([run, task, task, "name"])
            elif of_kind in sets:
                found.append([run, task, of_kind, "kind"])
            elif MIXTURE[0] in sets:
                found.append([run, task, MIXTURE[0], "mixture"])
    return pd.DataFrame(found, columns=BESIDE_COLUMNS)


def joined(
    behaviour: pd.DataFrame, geometry: pd.DataFrame, kinds: Mapping[str, str]
) -> pd.DataFrame:
    """Records of benchmarks and of the geometry beside each, as those of one sweep.

    Args:
        behaviour: records of benchmarks.
        geometry: records of measures of the same runs; others are left out.
        kinds: kind by task.

    Returns:
        A table with the columns of :data:`geomfast.records.COLUMNS`: the rows of behaviour of runs
        that have geometry, and for each of its tasks the rows of the geometry beside it.  Values of
        one set stand there once per task: what is counted over tasks of one kind is no independent
        evidence about geometry, and intervals are over runs.
    """
    places = beside(behaviour, geometry, kinds)
    own = geometry[~geometry["measure"].isin(_BEHAVIOUR)].rename(columns={"task": "set"})
    level = behaviour["level"].iloc[0] if len(behaviour) else 1
    rows = places[["run", "task", "set"]].merge(own, on=["run", "set"]).assign(level=level)
    there = behaviour[behaviour["run"].isin(places["run"])]
    found = pd.concat([there, rows[behaviour.columns]], ignore_index=True)
    order = [*TRAJECTORY, "layer", "measure", "step"]
    return found.sort_values(order, kind="stable", ignore_index=True)
