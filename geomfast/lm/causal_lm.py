"""A causal language model of transformers with its tokenizer, from a folder or the hub."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from geomfast.lm import adapters, own_code
from geomfast.lm.hub import (
    CorruptCheckpoint,
    LoadError,
    NotInstalled,
    NoTokenizer,
    OwnCode,
    checkpoint_folder,
)
from geomfast.measures.memory import out_of_memory

#: Types that weights can be loaded in.
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
# What extensions in Rust raise, which is no Exception.
_PANIC = "PanicException"
# Where configurations say how many positions there are.
_CONTEXT = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")


@dataclass(frozen=True)
class CausalLM:
    """A model and what turns text into its tokens.

    Attributes:
        model: of transformers, in evaluation mode; `model(input_ids).logits` are (N, T, V).
        tokenizer: of transformers.
        name: of the model on the hub, or the folder's.
        revision: on the hub; None for a folder, or the hub's main one.
    """

    model: nn.Module
    tokenizer: Any
    name: str
    revision: str | None = None

    @property
    def device(self) -> torch.device:
        """Device of the token ids."""
        return next(self.model.parameters()).device

    @property
    def context(self) -> int | None:
        """Most tokens the model was made for; None where its configuration does not say."""
        config: Any = self.model.config
        config = config.get_text_config() if hasattr(config, "get_text_config") else config
        found = [getattr(config, name, None) for name in _CONTEXT]
        return next((length for length in found if isinstance(length, int) and length > 0), None)

    @property
    def padding(self) -> int:
        """The id to pad with: any will do, since padding stands where nothing looks at it."""
        ids = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id)
        return next((token for token in ids if token is not None), 0)


def load(
    source: str | os.PathLike[str],
    revision: str | None = None,
    *,
    dtype: str = "float32",
    device: str | torch.device = "cpu",
    cache_dir: Path | None = None,
    device_map: Any = None,
    tokenizer: str | os.PathLike[str] | None = None,
) -> CausalLM:
    """Loads any causal language model that transformers knows.

    Nothing of the checkpoint is executed: models with code of their own are refused. An adapter of
    peft is put on the base model that it names, and its weights alone require gradients.

    Args:
        source: a folder, or a model's name on the hub.
        revision: branch, tag or commit on the hub; None for its main one.
        dtype: of the weights, one of :data:`DTYPES`.
        device: where the model goes, unless `device_map` says it.
        cache_dir: of downloads; None for the hub's own.
        device_map: handed to transformers as it is.
        tokenizer: folder or name of another source for the tokenizer, of which no revision is
            taken; None for the checkpoint's own.

    Raises:
        ValueError: an unknown dtype.
        LoadError: see its kinds in :mod:`geomfast.lm.hub`.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")
    try:
        import transformers
    except ImportError as error:
        raise NotInstalled(f'{error}: pip install "geomfast[hf]"') from error

    folder = checkpoint_folder(source, revision, cache_dir)
    name = os.fspath(source) if revision is None else f"{os.fspath(source)} at {revision}"
    adapter = adapters.found(folder, name, cache_dir) if adapters.is_adapter(folder) else None
    if adapter is None and not (folder / "config.json").is_file():
        raise CorruptCheckpoint(
            f"{name} has no config.json, nor {adapters.CONFIG}: not a checkpoint of transformers"
        )
    with _quiet(transformers), own_code.without_questions():
        place, called = (folder, name) if adapter is None else (adapter.base, str(adapter.base))
        model = _model(transformers, place, called, DTYPES[dtype], device_map)
        words = folder if tokenizer is None else checkpoint_folder(tokenizer, None, cache_dir)
        if adapter is not None:
            model = adapter.put_on(model)
            if tokenizer is None and not any(folder.glob("tokenizer*")):
                words = adapter.base
        made = _tokenizer(transformers, words, name)
    if device_map is None:
        model = model.to(device)
    return CausalLM(model, made, os.fspath(source), revision)


def _model(
    transformers: Any, folder: Path, name: str, dtype: torch.dtype, device_map: Any
) -> nn.Module:
    own_code.refuse_damaged(folder, name)
    own_code.refuse_model_code(folder, name, transformers.CONFIG_MAPPING)
    try:
        config = transformers.AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        raise CorruptCheckpoint(
            f"{name}: {folder / own_code.CONFIG} is not the configuration of a model that "
            f"transformers {transformers.__version__} knows: {_short(error)}"
        ) from error
    own_code.forget_code(config)
    if type(config) not in transformers.AutoModelForCausalLM._model_mapping:
        raise LoadError(
            f"{name} is no causal language model that transformers {transformers.__version__} "
            f"knows (model type {config.model_type!r})"
        )
    try:
        model, said = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            device_map=device_map,
            local_files_only=True,
            output_loading_info=True,
            trust_remote_code=False,
            weights_only=True,  # of torch's own files: tensors, and nothing that runs
        )
    except Exception as error:  # files cut short, of another shape, of another format
        if out_of_memory(error) or isinstance(error, ImportError):
            raise
        raise CorruptCheckpoint(
            f"{name}: weights cannot be read: {_short(error)} (they, or {own_code.CONFIG}, are "
            "damaged; copy both again)"
        ) from error
    # transformers fills what is missing with random numbers.
    if missing := sorted(said["missing_keys"]):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CorruptCheckpoint(f"{name}: weights are missing: {missing[0]}{more}")
    _require_all_blocks(model, said["unexpected_keys"], name)
    model.config.use_cache = False  # of keys and values, which nothing here comes back for
    return model.eval()


def _require_all_blocks(model: nn.Module, left_over: Iterable[str], name: str) -> None:
    """Refuse weights of more blocks than the configuration has made: those would go unmeasured.

    Other weights that the model has no use for, buffers of older versions say, are common.
    """
    lists = {key: m for key, m in model.named_modules() if isinstance(m, nn.ModuleList)}
    for weight in sorted(left_over):
        parts = weight.split(".")
        for i, part in enumerate(parts):
            before = ".".join(parts[:i])
            if not part.isdecimal() or not before:
                continue
            for key, blocks in lists.items():
                if f".{key}".endswith(f".{before}") and int(part) >= len(blocks):
                    raise CorruptCheckpoint(
                        f"{name}: there are weights of {before}.{part}, but {own_code.CONFIG} "
                        f"makes {len(blocks)} of {before}; copy both again"
                    )


def _tokenizer(transformers: Any, folder: Path, name: str) -> Any:
    own_code.refuse_damaged(folder, name)
    own_code.refuse_tokenizer_code(folder, name, transformers)
    try:
        made = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        # Without its files transformers may make one of the model's kind, with an empty vocabulary.
        known = made("one two", add_special_tokens=False)["input_ids"]
    except BaseException as error:  # every kind of tokenizer has its own ways to fail
        if not isinstance(error, Exception) and type(error).__name__ != _PANIC:
            raise
        if "trust_remote_code" in str(error):
            raise OwnCode(
                f"{name} has a tokenizer that only code of its own makes, which is never run"
            ) from error
        raise NoTokenizer(f"{name} has no tokenizer that can be loaded: {_short(error)}") from error
    if not known:
        raise NoTokenizer(f"{name} has no tokenizer: what can be made of its files knows no words")
    return made


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Within the context, transformers neither warns nor draws progress bars."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _short(error: BaseException) -> str:
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0]}" if said else type(error).__name__
