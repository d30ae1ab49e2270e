"""Records as tests compare them."""

from pathlib import Path

import pandas as pd

from geomfast.records import load_records


def values(out: Path) -> pd.DataFrame:
    """Records without the one column a rerun does not repeat."""
    return load_records(out).drop(columns="seconds")
