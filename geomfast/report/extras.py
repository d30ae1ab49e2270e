"""The optional packages of the report."""

from __future__ import annotations

import importlib
from typing import Any


class MissingExtra(ImportError):
    """The error for a package of the optional extra ``report`` that is not installed."""


def need(module: str) -> Any:
    """Import a module of the optional extra ``report``.

    Raises:
        MissingExtra: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise MissingExtra(
            f'the report needs {package} ({error}); pip install "geomfast[report]"'
        ) from error
