"""Tasks of one collection together, as the 57 subjects of MMLU."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

#: Shares of questions, whose mean over all questions of a collection is another.
_SHARES = ("accuracy", "accuracy_by_size", "choice_probability")
_OF_RUN = ["run", "scale", "seed", "step", "level", "layer", "measure"]


def pooled(
    records: pd.DataFrame, collections: Mapping[str, str]
) -> tuple[pd.DataFrame, dict[str, int]]:
    """The share of all questions of a collection, as one task.

    A subject of a hundred questions has a standard error of four points, all 57 together one of
    0.4: a rise may show in their mean that shows in none of them.

    Args:
        records: behaviour, with the columns of :data:`geomfast.records.COLUMNS`.
        collections: collection by task; empty for none.

    Returns:
        Rows of the collections, under their names, weighted by questions; only at checkpoints that
        have all tasks which the collection has anywhere.  Errors are those of independent tasks,
        NaN where one is not known.  And the number of tasks by collection.
    """
    own = records.assign(collection=records["task"].map(collections).fillna(""))
    own = own[own["measure"].isin(_SHARES) & own["collection"].ne("")]
    counts = {str(name): int(n) for name, n in own.groupby("collection")["task"].nunique().items()}
    counts = {name: n for name, n in counts.items() if n > 1}
    found = []
    for (name, *_), rows in own.groupby(["collection", *_OF_RUN], sort=False):
        # Without the number of questions of every task there is no share of all of them.
        if len(rows) != counts.get(str(name)) or not (rows["n"] > 0).all():
            continue
        weights = rows["n"] / rows["n"].sum()
        spread = (weights**2 * rows["stderr"] ** 2).to_list()
        row = rows.iloc[0].to_dict() | {"task": name, "n": int(rows["n"].sum())}
        row |= {"value": float((weights * rows["value"]).sum()), "stderr": math.sqrt(sum(spread))}
        found.append(row)
    table = pd.DataFrame(found, columns=own.columns).drop(columns="collection")
    return table.astype(dict(records.dtypes))[records.columns], counts


def pooled_chance(
    records: pd.DataFrame, collections: Mapping[str, str], chance: Mapping[str, float]
) -> dict[str, float]:
    """Rate of blind guesses of every collection, weighted by questions; only where all tasks' are
    known."""
    sizes = records.groupby("task")["n"].max()
    found = {}
    for name in sorted({name for name in collections.values() if name}):
        tasks = [task for task in sizes.index if collections.get(task) == name]
        whole = float(sizes[tasks].sum())
        if len(tasks) > 1 and whole and all(task in chance for task in tasks):
            found[name] = sum(chance[task] * float(sizes[task]) for task in tasks) / whole
    return found
