"""How a step of `gpu.py` reports: one JSON object a line, as each result arrives.

The lines outlive the process that wrote them: `gpu.py` merges them into its file while the step
runs, or when it is started again.
"""

import json
import os
from pathlib import Path
from typing import Any

VARIABLE = "GEOMFAST_GPU_LINES"


def emit(kind: str, name: str, **value: Any) -> None:
    """Appends one result to the file that `gpu.py` named; does nothing outside of it.

    Args:
        kind: "comparison", "test", "sanitizer" or "value".
        name: of the result, unique within its kind.
        value: what JSON can hold.
    """
    if path := os.environ.get(VARIABLE):
        line = json.dumps({"kind": kind, "name": name, "value": value}) + "\n"
        # One write of a file opened for appending: several processes may report at once.
        with Path(path).open("ab", buffering=0) as file:
            file.write(line.encode())
