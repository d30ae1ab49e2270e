"""Checkpoints of a causal language model with probe sets, for folders and the hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from geomfast.files import fingerprint
from geomfast.lm import hf
from geomfast.lm.hub import CorruptCheckpoint
from geomfast.lm.own_code import read_object
from geomfast.lm.probe_sets import ProbeItem, ProbesError, ProbeSet, read_probes
from geomfast.lm.texts import TOKENS, EncodedTexts, TextSet, encode_texts, read_texts
from geomfast.measures.model.measuring import MEASURES
from geomfast.measures.model.options import ModelSettings
from geomfast.runs.errors import PlanError
from geomfast.series.checkpoint import Checkpoint, apart
from geomfast.series.patterns import Named
from geomfast.testbed.tasks.names import task_level
from geomfast.testbed.training.checkpoints import weights_hash

#: Level that the records of a probe set have, which knows no difficulty.
LEVEL = 1


@dataclass(frozen=True)
class Probing:
    """Settings for measuring language models.

    Attributes:
        sets: the probe sets, and texts of corpora.
        dtype: to load weights in, from :data:`geomfast.lm.hf.DTYPES`; spectra are of
            float64 whatever it is.
        how: of the measures.
    """

    sets: tuple[ProbeSet | TextSet, ...]
    dtype: str
    how: ModelSettings

    @classmethod
    def asked(
        cls,
        probes: Sequence[str] | None,
        dtype: str | None,
        changes: Mapping[str, Any],
        texts: Sequence[str] | None = None,
        text_tokens: int | None = None,
    ) -> Probing:
        """Settings from the options of a command.

        Args:
            probes: sources of :func:`~geomfast.lm.probe_sets.read_probes`; None for the
                built-in sets, or for none where there are texts.
            dtype: None for float32.
            changes: settings by the names that :meth:`ModelSettings.named` knows; what is
                None stays as it is.
            texts: files of :func:`~geomfast.lm.texts.read_texts`; None for none.
            text_tokens: that are read of each text; None for the usual number.

        Raises:
            PlanError: there is no such set or file, or a set is there twice.
        """
        if text_tokens is not None and not texts:
            raise PlanError("--text-tokens is of --texts, and there are none")
        sets: list[ProbeSet | TextSet] = []
        for source in probes or (() if texts else ("builtin",)):
            try:
                sets += read_probes(source).values()
            except ProbesError as error:
                raise PlanError(f"--probes: {error}") from error
        for source in texts or ():
            try:
                sets.append(read_texts(source, text_tokens or TOKENS))
            except ProbesError as error:
                raise PlanError(f"--texts: {error}") from error
        names = [one.name for one in sets]
        if twice := next((name for name in names if names.count(name) > 1), None):
            option = "--texts" if texts else "--probes"
            raise PlanError(f"{option}: two sets are called {twice!r}")
        try:
            how = ModelSettings.named(**{k: v for k, v in changes.items() if v is not None})
        except ValueError as error:
            raise PlanError(str(error)) from error
        return cls(tuple(sets), dtype or "float32", how)

    @cached_property
    def data(self) -> dict[str, str]:
        """Hash of what every set asks: its probes that are measured on, or its texts."""
        found: dict[str, str] = {}
        for one in self.sets:
            if isinstance(one, TextSet):
                # All of them: how many are too short, only a tokenizer knows.
                found[one.name] = fingerprint({"tokens": one.tokens, "texts": one.texts})
            else:
                found[one.name] = fingerprint([asdict(item) for item in self._items(one)])
        return found

    @property
    def chance(self) -> dict[str, float]:
        """Rate at which a blind guess is right, by task-level name."""
        return {
            task_level(one.name, LEVEL): fmean(1 / len(item.choices) for item in self._items(one))
            for one in self.sets
            if isinstance(one, ProbeSet)
        }

    def _items(self, one: ProbeSet) -> tuple[ProbeItem, ...]:
        return one.items[: self.how.samples]


@dataclass(frozen=True)
class LanguageModelSeries:
    """Checkpoints of one training of a causal language model.

    Attributes:
        run: name of the model.
        checkpoints: ascending.
        probing: how they are measured.
        named: what its name says of scale and seed; None where nothing tells which they were.
    """

    run: str
    checkpoints: tuple[Checkpoint, ...]
    probing: Probing
    named: Named | None = field(default=None, kw_only=True)

    @property
    def scale(self) -> str:
        return self.named.scale if self.named else self.run

    @property
    def seed(self) -> int:
        return self.named.seed if self.named else 0

    @property
    def measures(self) -> tuple[str, ...]:
        return MEASURES

    @property
    def chance(self) -> dict[str, float]:
        return self.probing.chance

    @property
    def where(self) -> str:
        """The source that it is."""
        raise NotImplementedError

    def shared(self) -> dict[str, Any]:
        probing = self.probing
        shared = {"source": self.where, "dtype": probing.dtype, "probes": probing.data}
        lengths = {one.name: one.tokens for one in probing.sets if isinstance(one, TextSet)}
        return shared | ({"text_tokens": lengths} if lengths else {})

    def of(self, measure: str) -> dict[str, Any]:
        return self.probing.how.of(measure)

    def groups(self, measures: set[str]) -> list[set[str]]:
        return apart(measures)

    def open(self, checkpoint: Checkpoint, folder: Path, device: str) -> OpenedModel:
        return OpenedModel(self.probing, folder, device, self.tokenizer(folder))

    def tokenizer(self, folder: Path) -> Path | None:
        """Folder of the tokenizer of a checkpoint; None if the checkpoint contains it."""
        return None


class OpenedModel:
    """A language model at a checkpoint, and the probe sets and texts as its tokens.

    A set of which fewer than two probes, or texts, fit into the model's context is left out, with a
    notice, unless no other is left.
    """

    def __init__(self, probing: Probing, folder: Path, device: str, tokenizer: Path | None):
        self._probing = probing
        self.lm = hf.load(folder, dtype=probing.dtype, device=device, tokenizer=tokenizer)
        self.weights = weights_hash(self.lm.model)
        self.parameters: int | None = sum(p.numel() for p in self.lm.model.parameters())
        self.tokens = _tokens_seen(folder)
        self.notices: list[str] = []
        self.described: dict[str, dict[str, Any]] = {}
        self.encoded = self._encode()

    def take(self, measures: set[str]) -> list[dict[str, Any]]:
        samples = {encoded.name: encoded.data for encoded in self.encoded}
        rows = []
        for task, found in hf.measure_lm(
            self.lm, self.encoded, measures, self._probing.how, notice=self.notices.append
        ):
            settings = fingerprint(found.settings)
            self.described[settings] = found.settings
            row = {"task": task, "level": LEVEL, "data": samples[task], "settings": settings}
            names = ("layer", "measure", "value", "stderr", "n", "backend", "seconds")
            row |= {name: getattr(found, name) for name in names}
            rows.append(row | {"device": str(self.lm.device)})
        return rows

    def _encode(self) -> list[hf.EncodedProbes | EncodedTexts]:
        kept: list[hf.EncodedProbes | EncodedTexts] = []
        for one in self._probing.sets:
            encode: Any = encode_texts if isinstance(one, TextSet) else hf.encode
            try:
                encoded = encode(self.lm, one, self._probing.how)
            except ProbesError as error:
                if one is self._probing.sets[-1] and not kept:
                    raise
                self.notices.append(str(error))
                continue
            if encoded.notice:
                self.notices.append(encoded.notice)
            told: dict[str, Any] = {"task": one.name, "level": LEVEL, "samples": len(encoded)}
            if isinstance(one, TextSet):
                told["tokens"] = one.tokens
            self.described[encoded.data] = told | {"skipped": encoded.skipped}
            kept.append(encoded)
        return kept


def _tokens_seen(folder: Path) -> int | None:
    """Training tokens, where the trainer of transformers has counted them.

    Raises:
        CorruptCheckpoint: what it has written cannot be read.
    """
    path = folder / "trainer_state.json"
    if not path.exists():
        return None
    tokens = read_object(path, folder.name).get("num_input_tokens_seen")
    if tokens is None:
        return None
    if type(tokens) is not int or not 0 <= tokens < 2**63:
        raise CorruptCheckpoint(
            f"{path}: num_input_tokens_seen is {tokens!r:.60}, which counts no tokens; put it "
            "right, or remove the file to measure without"
        )
    return tokens or None
