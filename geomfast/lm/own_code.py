"""What a checkpoint's folder asks to be run, refused before a library is asked to load it.

A folder that others have made is only read. Configurations may name Python files of the folder, or
of the hub, that transformers would import (``auto_map``), kernels of the hub (an attention that is
named like a repository), and modules that peft would import; and transformers may ask on the
terminal whether to. None of it is run, whatever the answer.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from geomfast.lm.hub import CorruptCheckpoint, OwnCode

CONFIG = "config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
#: Beside these, what transformers reads of a folder as JSON objects.
_READ_AS_JSON = (
    "generation_config.json",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
)
#: Endings of what a configuration chooses implementations with.
_IMPLEMENTATION = ("attn_implementation", "experts_implementation", "_internal")


def read_object(path: Path, name: str) -> dict[str, Any]:
    """A JSON object that belongs to a checkpoint.

    Args:
        path: of the file.
        name: of the checkpoint, for messages.

    Raises:
        CorruptCheckpoint: it cannot be read, or is something else; the message names the file.
    """
    try:
        content = path.read_bytes()
        told = json.loads(content) if content.strip(b"\0 \r\n\t") else None
    except (OSError, ValueError, RecursionError) as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise _damaged(path, name, f"cannot be read: {why[:200]}") from error
    if told is None:
        raise _damaged(path, name, "is empty")
    if not isinstance(told, dict):
        raise _damaged(path, name, "is not a JSON object")
    return told


def refuse_damaged(folder: Path, name: str) -> None:
    """Look at the JSON files of a checkpoint, whose faults libraries report in words of their own.

    Raises:
        CorruptCheckpoint: one of them cannot be read.
    """
    for file in (CONFIG, TOKENIZER_CONFIG, *_READ_AS_JSON):
        if (folder / file).exists():
            read_object(folder / file, name)


def refuse_model_code(folder: Path, name: str, known: Any) -> None:
    """Refuse a model whose configuration cannot be understood without code of others.

    Args:
        folder: with ``config.json``.
        name: of the checkpoint, for messages.
        known: kinds of models that transformers has itself, as in ``model_type``. One of these is
            loaded by that, though its folder brings another implementation.

    Raises:
        OwnCode, CorruptCheckpoint: says why.
    """
    for part in _objects(read_object(folder / CONFIG, name)):
        kind = part.get("model_type")
        if part.get("auto_map") and not (isinstance(kind, str) and kind in known):
            raise _own_code(name, f"{CONFIG} names code of its own for model type {kind!r:.60}")
        for key, value in part.items():
            if key.endswith(_IMPLEMENTATION) and "/" in str(value):
                raise _own_code(name, f"{CONFIG} asks for {str(value)[:80]!r} of the hub as {key}")


def refuse_tokenizer_code(folder: Path, name: str, transformers: Any) -> None:
    """Refuse a tokenizer that only code of others makes.

    Args:
        folder: that it is in.
        name: of the checkpoint, for messages.
        transformers: the module.

    Raises:
        OwnCode, CorruptCheckpoint: says why.
    """
    found = [file for file in (TOKENIZER_CONFIG, CONFIG) if (folder / file).exists()]
    told = {file: read_object(folder / file, name) for file in found}
    classes = [one.get("tokenizer_class") for one in told.values()]
    names = [each for one in classes if isinstance(one, str) for each in (one, f"{one}Fast")]
    kinds = [one.get("model_type") for one in told.values()]
    if names:
        known = any(hasattr(transformers, each) for each in names)
    else:
        known = any(isinstance(kind, str) and kind in transformers.CONFIG_MAPPING for kind in kinds)
    if known:
        return
    for file, one in told.items():
        mapped = one.get("auto_map")
        if mapped and (file == TOKENIZER_CONFIG or "AutoTokenizer" in mapped):
            raise _own_code(name, f"{file} names code of its own for the tokenizer")


def refuse_adapter_code(told: dict[str, Any], file: str, name: str) -> None:
    """Refuse an adapter for which peft would import a module that the configuration names.

    Args:
        told: the configuration.
        file: its name.
        name: of the checkpoint, for messages.

    Raises:
        OwnCode: it does.
    """
    mapped = told.get("auto_mapping")
    library = mapped.get("parent_library") if isinstance(mapped, dict) else None
    if library is not None and str(library).split(".")[0] not in ("transformers", "peft"):
        raise _own_code(name, f"{file} names the module {str(library)[:80]!r} (auto_mapping)")
    for key in ("auto_map", "megatron_config"):
        if told.get(key):
            raise _own_code(name, f"{file} names code to import ({key})")


@contextmanager
def without_questions() -> Iterator[None]:
    """Within the context, transformers fails instead of asking whether to run code."""
    module: Any = importlib.import_module("transformers.dynamic_module_utils")
    before = module.TIME_OUT_REMOTE_CODE
    module.TIME_OUT_REMOTE_CODE = 0
    try:
        yield
    finally:
        module.TIME_OUT_REMOTE_CODE = before


def forget_code(config: Any) -> None:
    """Take out of a configuration of transformers, and those inside, where code of others is."""
    config.__dict__.pop("auto_map", None)
    for inside in getattr(config, "sub_configs", None) or ():
        if (part := getattr(config, inside, None)) is not None and hasattr(part, "__dict__"):
            forget_code(part)


def _objects(told: Any) -> Iterator[dict[str, Any]]:
    """All objects of a JSON value, itself and those inside."""
    waiting = [told]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield one
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one


def _own_code(name: str, why: str) -> OwnCode:
    return OwnCode(
        f"{name}: {why}, and code of a checkpoint is never run; use a checkpoint that transformers "
        "loads by itself"
    )


def _damaged(path: Path, name: str, what: str) -> CorruptCheckpoint:
    return CorruptCheckpoint(f"{name}: {path} {what}; copy it again from where it came from")
