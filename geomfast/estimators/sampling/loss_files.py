"""Losses of single samples in a folder of Parquet files, written while chains run.

`losses.json` says what the files hold, and is written last: a folder without it is of a run that
did not end. Each data set has a file with a row for each draw of each chain (`chain`, `draw`,
`losses`: a list of N, or N times T, numbers); its first row, of chain -1 and draw -1, has the
losses at the model's own weights.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import torch
from torch import Tensor

from geomfast.estimators.arguments import kind
from geomfast.estimators.sampling.kept import Rows, SampledLosses
from geomfast.estimators.sampling.observe import Observable
from geomfast.files import DamagedFile, FileError, inside, read_sealed, write_sealed

INDEX = "losses.json"
_FORMAT = 1
#: Bytes of losses that are held back until they are written together.
BUFFERED = 8 << 20
_TYPES = {torch.float32: pa.float32(), torch.float64: pa.float64()}


class LossFolder:
    """A sink that writes to a new folder, holding no more than `BUFFERED` bytes of each data set.

    Args:
        path: of the folder, which must be missing or empty.

    Raises:
        TypeError: path is no path.
        FileError: it holds something.
    """

    def __init__(self, path: Any):
        if not isinstance(path, (str, Path)) or not str(path):
            raise TypeError(f"keep_losses must be True, or a path, not {kind(path)}")
        self.path = Path(path)
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise FileError(
                f"keep_losses = {str(path)!r} holds something already: name a new folder"
            )
        self._made = not self.path.exists()
        self._writers: dict[str, _Writer] = {}

    def begin(self, observables: list[Observable]) -> None:
        """As `geomfast.estimators.sampling.observe.Sink`."""
        self._close()
        self.path.mkdir(parents=True, exist_ok=True)
        self._writers = {
            one.name: _Writer(inside(self.path, f"losses-{number}.parquet"), one)
            for number, one in enumerate(observables)
        }

    def write(self, name: str, first_chain: int, draw: int, values: Tensor) -> None:
        """As `geomfast.estimators.sampling.observe.Sink`."""
        self._writers[name].add(range(first_chain, first_chain + len(values)), draw, values)

    def finish(
        self, chains: int, draws: int, diverged: Tensor, about: dict[str, Any]
    ) -> SampledLosses:
        """Writes what is left, and what the files hold.

        Args:
            chains, draws: C and D.
            diverged: (C,) bool.
            about: nbeta, samples and localization, and what else is worth knowing.
        """
        self._close()
        sets = [
            {"name": name, "file": one.path.name, "samples": list(one.shape), "type": one.type}
            for name, one in self._writers.items()
        ]
        index = {
            "format": _FORMAT,
            "chains": chains,
            "draws": draws,
            "diverged": diverged.tolist(),
            "sets": sets,
            **about,
        }
        write_sealed(self.path / INDEX, index)
        return load_losses(self.path)

    def discard(self) -> None:
        """Removes what was written by a run that failed."""
        self._close()
        for one in self._writers.values():
            one.path.unlink(missing_ok=True)
        if self._made and self.path.is_dir() and not any(self.path.iterdir()):
            shutil.rmtree(self.path)

    def _close(self) -> None:
        for one in self._writers.values():
            one.close()


class _Writer:
    """One data set's file."""

    def __init__(self, path: Path, one: Observable):
        self.path, self.shape = path, tuple(one.initial.shape)
        self.type = str(one.dtype).removeprefix("torch.")
        size = one.initial.numel()
        self._list = pa.list_(_TYPES[one.dtype], size)
        schema = pa.schema([("chain", pa.int32()), ("draw", pa.int32()), ("losses", self._list)])
        self._file = pyarrow.parquet.ParquetWriter(
            path, schema, compression="zstd", use_dictionary=False, write_page_checksum=True
        )
        self._most = max(1, BUFFERED // (size * one.dtype.itemsize))
        self._open = True
        self._held: list[tuple[int, int, Tensor]] = [(-1, -1, one.initial.to(one.dtype))]

    def add(self, chains: range, draw: int, values: Tensor) -> None:
        self._held += [(chain, draw, x) for chain, x in zip(chains, values, strict=True)]
        if len(self._held) >= self._most:
            self._flush()

    def close(self) -> None:
        if self._open:
            self._flush()
            self._file.close()
            self._open = False

    def _flush(self) -> None:
        if not self._held:
            return
        chains, draws, losses = zip(*self._held, strict=True)
        flat = torch.stack(losses).reshape(-1).numpy()
        lists = pa.FixedSizeListArray.from_arrays(pa.array(flat), type=self._list)
        columns = [pa.array(chains, pa.int32()), pa.array(draws, pa.int32()), lists]
        self._file.write_table(pa.Table.from_arrays(columns, schema=self._file.schema))
        self._held = []


class _Folder:
    """The source of a folder's losses.

    Args:
        path: of the folder.
        files: name -> its file.
        shapes: name -> (C, D, N) or (C, D, N, T).
    """

    def __init__(self, path: Path, files: dict[str, str], shapes: dict[str, tuple[int, ...]]):
        self.path, self.files, self.shapes = path, files, shapes

    def rows(self, name: str) -> Iterator[Rows]:
        """All draws, a row group at a time."""
        for rows in self._all(name):
            own = rows.draws >= 0
            yield Rows(rows.chains[own], rows.draws[own], rows.losses[own])

    def initial(self, name: str) -> Tensor:
        """(N,) or (N, T) float64, at the model's own weights."""
        for rows in self._all(name):
            if (rows.draws < 0).any():
                return rows.losses[rows.draws < 0][0].double()
        raise DamagedFile(f"{self.path / self.files[name]} lacks the losses at the weights")

    def _all(self, name: str) -> Iterator[Rows]:
        path = inside(self.path, self.files[name])
        chains, draws, *shape = self.shapes[name]
        size = math.prod(shape)
        try:
            with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
                self._check(path, file, chains * draws + 1, size)
                most = max(1, BUFFERED // (size * 4))
                for batch in file.iter_batches(most, use_threads=False):
                    yield _rows(path, batch, chains, draws, shape)
        except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise DamagedFile(f"{path} cannot be read: {said[0]}") from error

    @staticmethod
    def _check(path: Path, file: pyarrow.parquet.ParquetFile, most: int, size: int) -> None:
        schema = file.schema_arrow
        expected = [
            pa.schema([("chain", pa.int32()), ("draw", pa.int32()), ("losses", pa.list_(x, size))])
            for x in _TYPES.values()
        ]
        if not any(schema.equals(one) for one in expected) or file.metadata.num_rows > most:
            raise DamagedFile(f"{path} does not hold the losses that {INDEX} tells of")


def _rows(path: Path, batch: pa.RecordBatch, chains: int, draws: int, shape: list[int]) -> Rows:
    batch.validate(full=True)
    if any(column.null_count for column in batch.columns):
        raise DamagedFile(f"{path} has missing values")
    at = [torch.from_numpy(batch.column(i).to_numpy().astype("int64")) for i in (0, 1)]
    if bool(((at[0] >= chains) | (at[1] >= draws) | (at[0] < -1) | (at[1] < -1)).any()):
        raise DamagedFile(f"{path} holds chains or draws that {INDEX} does not tell of")
    values = batch.column(2).flatten().to_numpy().copy()
    return Rows(at[0], at[1], torch.from_numpy(values).reshape(-1, *shape))


def load_losses(path: str | Path) -> SampledLosses:
    """Losses that `geomfast.llc(..., keep_losses=path)` has written.

    Args:
        path: of the folder.

    Returns:
        `SampledLosses`, which reads from the folder when it is asked.

    Raises:
        TypeError: path is no path.
        geomfast.files.FileError: there is no such folder, its run did not end, or it is damaged.
    """
    if not isinstance(path, (str, Path)):
        raise TypeError(f"path must be that of a folder, not {kind(path)}")
    folder = Path(path)
    try:
        index = read_sealed(folder / INDEX, required=True)
    except FileNotFoundError:
        raise FileError(
            f"{folder} holds no kept losses, or those of a run that did not end: {INDEX} is missing"
        ) from None
    try:
        if index["format"] != _FORMAT:
            raise DamagedFile(f"{folder / INDEX} is of another version: {index['format']!r}")
        chains, draws = int(index["chains"]), int(index["draws"])
        files = {str(one["name"]): str(one["file"]) for one in index["sets"]}
        shapes = {
            str(one["name"]): (chains, draws, *(int(size) for size in one["samples"]))
            for one in index["sets"]
        }
        if any(size < 1 for shape in shapes.values() for size in shape):
            raise DamagedFile(f"{folder / INDEX} tells of no losses")
        diverged = torch.tensor(index["diverged"], dtype=torch.bool, device="cpu")
        about = float(index["nbeta"]), int(index["samples"]), float(index["localization"])
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedFile(f"{folder / INDEX} is not what geomfast wrote: {error!r}") from error
    source = _Folder(folder, files, shapes)
    initial = {name: source.initial(name) for name in shapes}
    return SampledLosses(shapes, initial, diverged, *about, source)
