"""Old names of modules: they give what the new ones give, and warn."""

import importlib
import subprocess
import sys

import pytest

from geomfast.moved import MOVED, new_name

CODE = """
import warnings
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    {old}
{new}
print([str(w.message) for w in said if w.category is DeprecationWarning][-1], a is b)
"""


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        (
            "from geomfast.integrations.callbacks import hugging_face as a",
            "from geomfast.tracker.callbacks import hugging_face as b",
            "geomfast.integrations.callbacks is geomfast.tracker.callbacks now",
        ),
        (
            "from geomfast.integrations.tracking.dashboards import dashboards as a",
            "from geomfast.tracker.dashboards import dashboards as b",
            "geomfast.integrations.tracking.dashboards is geomfast.tracker.dashboards now",
        ),
        (
            "from geomfast.integrations import hf as a",
            "from geomfast.lm import hf as b",
            "geomfast.integrations.hf is geomfast.lm.hf now",
        ),
        (
            "import geomfast.tasks as a",
            "import geomfast.testbed.tasks as b",
            "geomfast.tasks is geomfast.testbed.tasks now",
        ),
        (
            "from geomfast.sweep.engines.events import Event as a",
            "from geomfast.runs.executors.events import Event as b",
            "geomfast.sweep.engines.events is geomfast.runs.executors.events now",
        ),
    ],
)
def test_an_old_name_gives_the_new_module_and_warns(old, new, where):
    code = CODE.format(old=old, new=new)
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.startswith(where) and said.stdout.rstrip().endswith("True"), said.stdout


def test_all_that_moved_is_there():
    for old in MOVED:
        importlib.import_module(new_name(f"geomfast.{old}"))


@pytest.mark.parametrize(
    "name", ["geomfast.rooms", "geomfast.integrations.none", "geomfast.sweep.x"]
)
def test_what_never_was_is_not_found(name):
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(f"geomfast.{name}")
