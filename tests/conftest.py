"""Before anything imports Triton: without a GPU its kernels run in the interpreter."""

import gc
import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

#: Files of minutes, which begin first, so that no process is left alone with one at the end.
_LONG = (
    "kernels/test_compiled.py",
    "runs/test_orphans.py",
    "cli/test_sweep.py",
    "property/test_property.py",
    "estimators/test_llc_closed_forms.py",
    "runs/test_ray.py",
    "unchanged/test_unchanged.py",
    "cli/test_measure.py",
    "measures/test_catalog.py",
    "bench/test_gpu_script.py",
    "test_default_device.py",
    "report/test_names.py",
    "report/test_assemble.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of minutes first, the others as they come."""

    def place(item: pytest.Item) -> int:
        found = (i for i, name in enumerate(_LONG) if item.path.as_posix().endswith(f"/{name}"))
        return next(found, len(_LONG))

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """What has been imported by now is there to the end: not to be gone through by every collect().

    With all those libraries that takes a second, wherever memory is made free.
    """
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """As it was, for bindings that count at the end what is left of them."""
    gc.unfreeze()
