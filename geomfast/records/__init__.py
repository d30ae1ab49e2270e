"""The one table everything writes and every analysis reads.

A record is one value of one measure at one moment of one run, in long form.  Records live in
Parquet part files, one per checkpoint and group of measures, under ``OUT/records/RUN/``; each
part is written to a temporary name, synced and renamed, so a reader never meets half a part, and
carries a hash of its content, so that none is read that has changed since.
``OUT/settings.json`` resolves the hashes in the ``settings`` and ``data`` columns.

This package needs no torch: analyses and reports run where there is none.
"""

from geomfast.labels import FINAL, MIXTURE, block, layer_depth
from geomfast.records.load import load_records, part_files
from geomfast.records.part import is_part, parts_of, read_part, write_part
from geomfast.records.schema import (
    COLUMNS,
    SCHEMA,
    RecordsError,
    parse_part_name,
    part_name,
)

__all__ = [
    "COLUMNS",
    "FINAL",
    "MIXTURE",
    "SCHEMA",
    "RecordsError",
    "block",
    "is_part",
    "layer_depth",
    "load_records",
    "parse_part_name",
    "part_files",
    "part_name",
    "parts_of",
    "read_part",
    "write_part",
]
