"""Tables of outcomes over seeds: read from a file, or taken from records.

One row is the outcome of one member: one seed at one scale.  Where several tasks or lengths were
measured, each is a population of its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from geomfast.analysis.trajectories import select
from geomfast.files import printable
from geomfast.records import RecordsError

#: What a table must have, and what it may have besides.
REQUIRED = ("scale", "seed", "score")
OPTIONAL = ("task", "length", "parameters", "loss", "n")
#: What names one population among those of a table.
POPULATION = ["task", "length"]
COLUMNS = [*POPULATION, "scale", "parameters", "seed", "score", "loss", "n"]

_USED = (*REQUIRED, *OPTIONAL)
_NUMBERS = ("parameters", "score", "loss", "n")
#: What numbers may be that are missing.
_MISSING = ["", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "null", "NULL", "None", "-"]
_UNREADABLE = (
    pa.ArrowException,
    pd.errors.ParserError,
    pd.errors.EmptyDataError,
    ValueError,
    OverflowError,
)
#: Of a Parquet file, which may be small and yet hold anything.
LARGEST_ROWS, LARGEST_BYTES = 5_000_000, 1 << 30
#: A number of parameters in the name of a language model.
_SIZE_IN_NAME = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)([kmb])(?![a-z0-9])", re.IGNORECASE)
_UNITS = {"k": 1e3, "m": 1e6, "b": 1e9}
#: Name of a population's point: layers x width, and what varies beside.
_POINT = re.compile(r"\d+x\d+(-|$)")
#: A number in the name of a scale.
_NUMBER_IN_NAME = re.compile(r"(\d+(?:\.\d+)?(?:e-\d+)?)")
#: Letters of the name of a task or scale.
LONGEST_NAME = 1_000
#: Measures of the records that are the score and the loss of a member.
SCORE, LOSS, LOGPROB = "accuracy", "answer_nats", "answer_logprob"


class TableError(RecordsError, ValueError):
    """A table that is not one of outcomes over seeds; the message says what is expected."""


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV or Parquet file of outcomes, for instance evaluations of language models.

    Args:
        path: with the columns ``scale``, ``seed`` and ``score``, and any of ``task``, ``length``,
            ``parameters`` (model size), ``loss`` and ``n`` (samples behind the score); further
            columns are ignored.

    Returns:
        The rows of :func:`outcomes`.

    Raises:
        FileNotFoundError: there is no such file.
        TableError: it is neither CSV nor Parquet, not such a table, or too large.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    kinds = {".parquet": _read_parquet, ".csv": _read_csv}
    if path.suffix.lower() not in kinds:
        raise TableError(f"{path}: a table of outcomes is a .csv or .parquet file")
    try:
        frame = kinds[path.suffix.lower()](path)
    except TableError as error:
        raise TableError(f"{path}: {error}") from error
    except UnicodeError as error:
        raise TableError(f"{path}: not text in UTF-8; save it so. {_expected()}") from error
    except _UNREADABLE as error:
        said = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise TableError(f"{path}: {said[:200]}; {_expected()}") from error
    try:
        return outcomes(frame)
    except TableError as error:
        raise TableError(f"{path}: {error}") from error


def outcomes(frame: pd.DataFrame) -> pd.DataFrame:
    """Check a table of outcomes and bring it into one form.

    Args:
        frame: as :func:`read_table` wants it.

    Returns:
        The columns ``task`` (empty for none), ``length`` (0 for none), ``scale`` (text),
        ``parameters`` (NaN for none), ``seed``, ``score`` (NaN where a member has not finished),
        ``loss`` and ``n`` (NaN for none), by task and length, scales in order of ``parameters``,
        else of their own number where all are numbers, else as they come.  Scales of equal
        ``parameters`` are in the order of the numbers in their names, where these are points of a
        population's axis (``2x64-mixture0``, ``2x64-mixture0.01``).

    Raises:
        TableError: a column is missing or there twice, a score or other number is not one, a score
            is infinite, a size or number of samples is not positive, a seed is not a whole number
            of 64 bits, a scale has two sizes, a member stands there twice, or there are no rows.
    """
    missing = [name for name in REQUIRED if name not in frame.columns]
    if missing:
        found = ",".join(map(str, frame.columns)) or "nothing"
        raise TableError(
            f"no column {', '.join(missing)} in {printable(found):.300}; {_expected()}"
        )
    twice = [name for name in (*REQUIRED, *OPTIONAL) if list(frame.columns).count(name) > 1]
    if twice:
        raise TableError(f"column {twice[0]} is there twice")
    for name in frame.columns.intersection(list(_USED)):
        if frame[name].dtype == object and not frame[name].map(pd.api.types.is_scalar).all():
            raise TableError(f"column {name} holds lists, not single values")
    if frame.empty:
        raise TableError(f"no rows; {_expected()}")
    table = pd.DataFrame(index=range(len(frame)))
    table["task"] = _texts(frame["task"]) if "task" in frame else ""
    table["scale"] = _texts(frame["scale"])
    _refuse(table["scale"] == "", lambda row: "no scale")
    for name in _NUMBERS:
        table[name] = _numbers(frame, name) if name in frame else np.nan
    table["length"] = _whole(frame, "length", absent=0) if "length" in frame else 0
    table["seed"] = _whole(frame, "seed")
    for name in ("parameters", "n"):
        wrong = table[name].notna() & ~((table[name] > 0) & np.isfinite(table[name]))
        _refuse(wrong, lambda row, of=name: f"{of} is {table[of].iloc[row]}, not positive")
    _refuse(
        np.isinf(table["score"]),
        lambda row: f"score is {table['score'].iloc[row]}; leave it empty if failed",
    )
    several = table.groupby("scale", sort=False)["parameters"].nunique()
    if (several > 1).any():
        scale = several.index[several > 1][0]
        sizes = sorted(set(table.loc[table["scale"] == scale, "parameters"].dropna()))
        of = ", ".join(_number_text(value) for value in sizes[:5])
        raise TableError(f"scale {printable(scale):.60} has several values of parameters: {of}")
    _refuse(
        table.duplicated([*POPULATION, "scale", "seed"]),
        lambda row: (
            f"scale {printable(table['scale'].iloc[row]):.60}, seed {table['seed'].iloc[row]} is "
            "there twice; tasks and lengths must be told apart by columns task and length"
        ),
    )
    table["_order"] = _order(table)
    table = table.sort_values([*POPULATION, "_order", "seed"], kind="stable")
    return table[COLUMNS].reset_index(drop=True)


def from_records(
    records: pd.DataFrame,
    parameters: Mapping[str, float] | None = None,
    *,
    last_step: int | None = None,
    order: Sequence[str] = (),
) -> pd.DataFrame:
    """Outcomes of the members of a population: what they are at their last step.

    Args:
        records: the table of :func:`geomfast.records.load_records`, with the measures
            :data:`SCORE` and :data:`LOSS` at level = length.
        parameters: by scale; a scale that is not in it has those that its name says, as
            *pythia-70m* does, or the 12 LAYERS WIDTH² of its blocks if it is LAYERSxWIDTH.
        last_step: that of a member that has finished; when None the last of its scale.
        order: scales as they come, where their sizes are not known.

    Returns:
        The rows of :func:`outcomes`.  A member that was measured, but not at the last step, has
        not finished: its score is NaN.

    Raises:
        TableError: the records hold no score.
    """
    rows = select(records, SCORE)
    if rows.empty:
        raise TableError(f"the records hold no {SCORE} of any task")
    key = ["task", "level", "scale", "seed"]
    last = rows.groupby("scale", sort=False)["step"].transform("max")
    last = last if last_step is None else last_step
    table = rows[key].drop_duplicates()
    ends = rows[rows["step"] == last].rename(columns={"value": "score"})
    table = table.merge(ends[[*key, "step", "score", "n"]], on=key, how="left")
    loss = select(records, LOSS)
    if loss.empty:  # of language models, which record its negative
        loss = select(records, LOGPROB)
        loss = loss.assign(value=-loss["value"])
    loss = loss.rename(columns={"value": "loss"})
    table = table.merge(loss[[*key, "step", "loss"]], on=[*key, "step"], how="left")
    table["parameters"] = [_size(scale, parameters or {}) for scale in table["scale"]]
    if order:
        at = {scale: place for place, scale in enumerate(order)}
        table["_place"] = [at.get(scale, len(at)) for scale in table["scale"]]
        table = table.sort_values("_place", kind="stable").drop(columns="_place")
    return outcomes(table.rename(columns={"level": "length"}))


def resolution_of(table: pd.DataFrame) -> float:
    """The width that scores were rounded to.

    Args:
        table: the rows of :func:`outcomes` of one population.

    Returns:
        1 / n where ``n`` says what the scores are shares of; else the least distance between two
        different scores, if some scores are equal; else 0.
    """
    known = table["n"].dropna()
    if len(known):
        return 1.0 / float(known.min())
    values, counts = np.unique(np.round(table["score"].dropna(), 9), return_counts=True)
    if len(values) < 2 or counts.max() == 1:
        return 0.0
    return float(np.diff(values).min())


def _expected() -> str:
    return f"expected the header {','.join(REQUIRED)} (also {', '.join(OPTIONAL)} if known)"


def _refuse(wrong: Any, what: Callable[[int], str]) -> None:
    """Name the first row that is wrong, if there is one.

    Args:
        wrong: (rows,) booleans.
        what: says what is wrong with a row of that index.
    """
    rows = np.flatnonzero(np.asarray(wrong, dtype=bool))
    if len(rows):
        raise TableError(f"row {rows[0] + 1}: {what(int(rows[0]))}")


def _read_csv(path: Path) -> pd.DataFrame:
    """Names and whole numbers as the text they are: ``NA`` is a name, 2^63 a number."""
    kept = {"scale": str, "task": str, "seed": str, "length": str}
    missing = {str(name): _MISSING for name in _NUMBERS}
    if path.stat().st_size > LARGEST_BYTES:
        raise TableError(f"larger than {LARGEST_BYTES >> 30} GiB")
    frame = pd.read_csv(path, dtype=kept, keep_default_na=False, na_values=missing)
    if not isinstance(frame.index, pd.RangeIndex):
        raise TableError(f"rows of more columns than the header; {_expected()}")
    return frame


def _read_parquet(path: Path) -> pd.DataFrame:
    """The columns that are used, of a file that says it is not too large."""
    footer = pyarrow.parquet.read_metadata(path)
    if footer.num_rows > LARGEST_ROWS:
        raise TableError(f"{footer.num_rows:,} rows, at most {LARGEST_ROWS:,}")
    types = {field.name: field.type for field in footer.schema.to_arrow_schema()}
    for name in _NUMBERS:
        kind = types.get(name, pa.float64())
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
            raise TableError(f"column {name} is of type {kind!s:.40}, not of numbers")
    wanted = [name for name in types if name in _USED]
    # Texts that repeat stay one text each, whatever their length.
    texts = [name for name in wanted if _is_text(types[name])]
    groups = (footer.row_group(index) for index in range(footer.num_row_groups))
    size = sum(
        group.column(at).total_uncompressed_size
        for group in groups
        for at in range(group.num_columns)
        if group.column(at).path_in_schema.split(".")[0] in _USED
    )
    if size > LARGEST_BYTES:
        raise TableError(f"{size / 2**30:.1f} GiB when read, at most {LARGEST_BYTES >> 30} GiB")
    return pyarrow.parquet.read_table(path, columns=wanted, read_dictionary=texts).to_pandas()


def _is_text(kind: pa.DataType) -> bool:
    return any(
        of(kind) for of in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary)
    )


def _texts(column: pd.Series) -> np.ndarray:
    """Values as text, numbers without a trailing .0, missing ones empty."""
    codes, values = pd.factorize(column)
    texts = np.array([*map(_text, values), ""], dtype=object)
    long = np.array([len(text) > LONGEST_NAME for text in texts])
    _refuse(
        long[codes], lambda row: f"{column.name} is a name of more than {LONGEST_NAME:,} letters"
    )
    return texts[codes]  # missing ones have the code -1, which is the last


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        value = value.decode(errors="backslashreplace")
    if isinstance(value, float | np.floating):
        return _number_text(float(value))
    text = str(value).strip()
    return text.partition(".")[0] if re.fullmatch(r"[+-]?\d+\.0+", text) else text


def _number_text(value: float) -> str:
    """A number with all of its digits, those that are whole without a point."""
    return str(int(value)) if value.is_integer() and abs(value) < 1e17 else repr(value)


def _whole(frame: pd.DataFrame, name: str, absent: int | None = None) -> np.ndarray:
    """Whole numbers of 64 bits, exactly.

    Args:
        frame: the table.
        name: of the column.
        absent: stands for missing ones, which are refused where it is None.
    """
    column = frame[name]
    if pd.api.types.is_signed_integer_dtype(column) and not column.hasnans:
        return column.to_numpy(dtype=np.int64)
    codes, values = pd.factorize(column)
    known = [_integer(value) for value in values] + [absent]
    wrong = np.array([not isinstance(value, int) for value in known])

    def said(row: int) -> str:
        value, found = column.iloc[row], known[codes[row]]
        what = "not a whole number" if found is None else "beyond the whole numbers of 64 bits"
        return f"{name} is {what}: {printable(str(value)).strip() or 'nothing':.60}"

    numbers = np.array([0 if bad else value for bad, value in zip(wrong, known, strict=True)])
    empty = [i for i, value in enumerate(values) if isinstance(value, str) and not value.strip()]
    if absent is not None:
        wrong[empty], numbers[empty] = False, absent
    _refuse(wrong[codes], said)
    return numbers.astype(np.int64)[codes]


def _integer(value: Any) -> int | float | None:
    """A whole number; infinite if it needs more than 64 bits, None for anything else."""
    try:
        number = Decimal(str(value).strip())
    except ArithmeticError:
        return None
    if not number.is_finite() or (number.adjusted() < 400 and number != int(number)):
        return None
    return int(number) if -(2**63) <= number < 2**63 else math.inf


def _numbers(frame: pd.DataFrame, name: str) -> np.ndarray:
    values = pd.to_numeric(frame[name], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    wrong = np.isnan(values) & frame[name].notna().to_numpy()
    _refuse(wrong, lambda row: f"{name} is not a number: {frame[name].iloc[row]!a:.60}")
    return values


def _order(table: pd.DataFrame) -> pd.Series:
    """Key to sort scales by."""
    codes, names = pd.factorize(table["scale"])
    sizes = table.groupby("scale", sort=False)["parameters"].first()
    if sizes.isna().any():
        sizes = pd.to_numeric(pd.Series(list(names), index=list(names)), errors="coerce")
    if sizes.isna().any():
        sizes = pd.Series(range(len(names)), index=list(names))
    places = sizes.reindex(names).to_numpy(dtype=float, copy=True)
    if all(map(_POINT.match, names)):
        ranks = sorted(range(len(names)), key=lambda i: (places[i], _words_and_numbers(names[i])))
        places[ranks] = np.arange(len(names), dtype=float)
    return pd.Series(places[codes], index=table.index)


def _words_and_numbers(name: str) -> list[tuple[str, float]]:
    """The words of a name, each with the number behind it, as its place among others."""
    parts = [*re.split(_NUMBER_IN_NAME, name), "-1"]
    return [(word, float(number)) for word, number in zip(parts[::2], parts[1::2], strict=True)]


def _size(scale: Any, parameters: Mapping[str, float]) -> float:
    shape = re.fullmatch(r"(\d+)x(\d+)", str(scale))
    if scale in parameters:
        return float(parameters[scale])
    if told := _SIZE_IN_NAME.search(str(scale)):
        return float(told[1]) * _UNITS[told[2].lower()]
    return 12.0 * int(shape[1]) * int(shape[2]) ** 2 if shape else np.nan
