"""One part file: written with checksums and a hash of its content, read only if they agree.

Parquet's own checksums cover its pages, not what its footer says of them, and a page may be
exchanged for another whole one; the hash covers every value, and how many there are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from geomfast.files import write_atomically
from geomfast.measures.spec import BEHAVIOUR, owns
from geomfast.records.ranges import out_of_range
from geomfast.records.schema import SCHEMA, RecordsError, parse_part_name, part_name

#: What a part may be once it is unpacked: that of all records of a large sweep is a tenth.
LARGEST = 2 << 30
#: Characters of a name; nothing of ours has a tenth.
LONGEST_TEXT = 1000
#: Characters of a part's file name; file systems take 255 bytes.
LONGEST_NAME = 200
_TEXTS = [name for name, kind in zip(SCHEMA.names, SCHEMA.types, strict=True) if kind == "string"]
_HASH = b"geomfast.sha256"
#: All that the metadata of a part says: names with a flipped bit are none of these.
_METADATA = {b"ARROW:schema", b"pandas", _HASH}
#: What a tracker that is told of no tokens has, as the hash sees it; no count is negative.
_NONE = -1


def write_part(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one part file; every row must have every column of :data:`COLUMNS`.

    Raises:
        RecordsError: there are no rows, or a value is outside of what its measure can be.
        OSError: the disk is full or not writable.
    """
    complete = [{name: row[name] for name in SCHEMA.names} for row in rows]
    table = pa.Table.from_pylist(complete, schema=SCHEMA)
    for wrong in _wrong_values(table):
        raise RecordsError(f"{path}: {wrong}; not written")
    table = table.replace_schema_metadata({_HASH: content_hash(table)})
    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink, compression="zstd", write_page_checksum=True)
    write_atomically(path, sink.getvalue().to_pybytes())


def parts_of(
    folder: Path, step: int, measures: Iterable[str], rows: Iterable[Mapping[str, Any]]
) -> list[tuple[Path, list[Mapping[str, Any]]]]:
    """The records of a checkpoint as one part, or several where its name would be too long.

    Args:
        folder: of the run's records.
        step: of the checkpoint.
        measures: that the rows are of, and behaviour.
        rows: of them.

    Returns:
        Path and rows of each part, for :func:`write_part`.
    """
    groups: list[list[str]] = [[]]
    for name in sorted(measures):
        if groups[-1] and len(part_name(step, [*groups[-1], name])) > LONGEST_NAME:
            groups.append([])
        groups[-1].append(name)
    parts: list[list[Mapping[str, Any]]] = [[] for _ in groups]
    for row in rows:
        owners = [name for group in groups for name in group if owns(name, row["measure"])]
        owner = max(owners, key=len, default=BEHAVIOUR)
        parts[next((i for i, group in enumerate(groups) if owner in group), 0)].append(row)
    return [
        (folder / part_name(step, group), part) for group, part in zip(groups, parts, strict=True)
    ]


def read_part(path: Path) -> pa.Table:
    """The rows of a part file, checked.

    Args:
        path: of the file; where its name is that of a part, its content has to be what that says.

    Returns:
        A table with the columns of :data:`COLUMNS`, in their order.

    Raises:
        RecordsError: it cannot be read, is not a part, expands to more than :data:`LARGEST`, has
            changed since it was written, or holds what no measure gives; the message names it.
    """
    try:
        with pyarrow.parquet.ParquetFile(
            path, page_checksum_verification=True, read_dictionary=_TEXTS
        ) as file:
            _check_footer(path, file.metadata)
            sealed = (file.metadata.metadata or {}).get(_HASH)
            table = file.read(columns=SCHEMA.names, use_threads=False).select(SCHEMA.names)
            table.validate(full=True)
            _check_texts(path, table)
            table = _plain(table)
    except KeyError as error:  # of a column that is to be read in a way of its own
        lacking = error.args[0].decode()
        raise RecordsError(
            f"{path} is not a part of geomfast records: column {lacking!r} is missing"
        ) from error
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise RecordsError(f"{path} cannot be read: {said[0]}") from error
    for wrong in _wrong_values(table):
        raise RecordsError(f"{path}: {wrong}")
    # Parts of geomfast 0.1 have no hash.
    if sealed is not None and sealed != content_hash(table):
        raise RecordsError(f"{path} has changed since it was written")
    if (named := parse_part_name(path.name)) is not None:
        for wrong in _other_than_named(table, *named):
            raise RecordsError(f"{path}: {wrong}")
    return table


def is_part(path: Path) -> bool:
    """Whether a file is meant to be a part of geomfast records; reads its footer only."""
    try:
        return pyarrow.parquet.read_schema(path).names == SCHEMA.names
    except (pa.ArrowException, OSError, ValueError):
        return False


def content_hash(table: pa.Table) -> bytes:
    """Hexadecimal SHA-256 of all values, whatever the file's compression, pages and encodings."""
    digest = hashlib.sha256(f"{table.num_rows}".encode())
    for name, kind in zip(SCHEMA.names, SCHEMA.types, strict=True):
        column = table.column(name)
        if pa.types.is_string(kind):
            # Lengths too, or a letter could move from one value to the next.
            texts = pa.concat_arrays(column.chunks)
            _, ends, letters = texts.buffers()
            ends = np.frombuffer(ends, np.int32)[texts.offset : texts.offset + len(texts) + 1]
            digest.update(np.diff(ends).astype("<i4").tobytes())
            digest.update(memoryview(letters)[ends[0] : ends[-1]] if letters else b"")
        else:
            values = (column.fill_null(_NONE) if column.null_count else column).to_numpy()
            digest.update(np.ascontiguousarray(values).astype(f"<{values.dtype.str[1:]}").tobytes())
    return digest.hexdigest().encode()


def _check_footer(path: Path, footer: pyarrow.parquet.FileMetaData) -> None:
    """Raises RecordsError where the footer says that this is no part, or too large for one."""
    there = footer.schema.to_arrow_schema()
    for name in [] if there.names == SCHEMA.names else SCHEMA.names:
        if there.names.count(name) != 1:
            what = "missing" if name not in there.names else "there twice"
            raise RecordsError(
                f"{path} is not a part of geomfast records: column {name!r} is {what}"
            )
    for name, kind in zip(SCHEMA.names, SCHEMA.types, strict=True):
        # What pandas saves has large strings, which are read like ours.
        alike = (kind, pa.large_string()) if kind == "string" else (kind,)
        if there.field(name).type not in alike:
            raise RecordsError(f"{path}: column {name!r} is {there.field(name).type}, not {kind}")
    if strange := set(footer.metadata or {}) - _METADATA:
        raise RecordsError(f"{path} has changed since it was written: {sorted(strange)[0]!r:.60}")
    groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
    # Values that repeat take next to nothing packed, and all of their bytes unpacked.
    least = footer.num_rows * 8 * len(SCHEMA.names)
    expanded = max(least, sum(group.total_byte_size for group in groups))
    if expanded > LARGEST:
        raise RecordsError(f"{path} expands to {expanded:,} bytes; a part has {LARGEST:,} at most")


def _plain(table: pa.Table) -> pa.Table:
    """The table with plain strings, and NaN, as in pandas, for missing numbers."""
    columns = []
    for field, column in zip(SCHEMA, table.columns, strict=True):
        if column.type != field.type:
            column = column.cast(field.type)
        elif field.type == pa.float64() and column.null_count:
            column = column.fill_null(float("nan"))
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _check_texts(path: Path, table: pa.Table) -> None:
    """Raises RecordsError for a text so long that a few bytes of a file unpack to gigabytes."""
    for name in _TEXTS:
        for chunk in table.column(name).chunks:
            for text in chunk.dictionary.to_pylist():
                if text is not None and len(text) > LONGEST_TEXT:
                    raise RecordsError(f"{path}: a {name} of {len(text):,} characters")


def _wrong_values(table: pa.Table) -> Iterator[str]:
    """Reasons why rows cannot be records."""
    if not table.num_rows:
        yield "holds no rows"
        return
    for name in SCHEMA.names:
        if name != "tokens" and table.column(name).null_count:
            yield f"column {name!r} has missing values"
            return
    for name in ("step", "tokens", "level", "n"):
        column = table.column(name)
        values = column.fill_null(0) if column.null_count else column
        if (found := values.to_numpy().min()) < 0:
            yield f"{name} {found} is negative"
    yield from out_of_range(table)


def _other_than_named(table: pa.Table, step: int, measures: set[str]) -> Iterator[str]:
    """Contradictions between a part's content and its name."""
    for found in table.column("step").unique().to_pylist():
        if found != step:
            yield f"holds step {found}, which its name does not say"
    records = table.column("measure").unique().to_pylist()
    for measure in sorted(measures - {BEHAVIOUR}):
        if not any(owns(measure, record) for record in records):
            yield f"holds no value of {measure}"
