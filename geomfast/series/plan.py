"""Makes series of checkpoints from a command's source, and the jobs that measure them."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from geomfast.files import plain_name, refuse_links
from geomfast.runs.cadence import Cadence
from geomfast.runs.errors import PlanError
from geomfast.series.checkpoint import Series
from geomfast.series.folders import FolderSeries, checkpoints_in
from geomfast.series.hub import HubSeries, place_in, remove_download, revisions_of
from geomfast.series.language_model import Probing
from geomfast.series.running import MeasureJob, missing
from geomfast.series.sweeps import of_sweep, sweep_of

#: Checkpoints of a job where it is not known how many jobs run at once.
STRETCH = 8
_DOWNLOADS = "downloads"
_MODEL_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def default_out(source: str) -> Path:
    """Default folder of results: beside a source folder, or ``measured`` for a model of the hub."""
    path = Path(source)
    if path.exists():
        path = path.resolve()
        return path.with_name(f"{path.name}-measured")
    return Path("measured") / source.replace("/", "--")


def series_of(
    source: str,
    revisions: Sequence[str],
    out: Path,
    changes: Mapping[str, Any],
    *,
    probes: Sequence[str] | None = None,
    dtype: str | None = None,
    keep_cache: bool = False,
) -> list[Series]:
    """The series of checkpoints that a source is.

    Args:
        source: a folder, or the id of a model on the hub.
        revisions: of the model; see :func:`geomfast.series.hub.revisions_of`.
        out: folder of the results; what is downloaded passes through it.
        changes: settings of measures that are not to be the usual ones, which of a sweep's
            checkpoints are those of the sweep; what is None stays.
        probes, dtype: of language models, see :meth:`Probing.asked`; None for the usual.
        keep_cache: whether downloads go to the hub's own cache, and stay.

    Raises:
        PlanError: there is no such source, or it cannot be what is asked for.
        UnsafeName: the name of its folder cannot be that of a run.
        SourceUnreachable: the hub does not answer.
    """
    path = Path(source)
    sweep = sweep_of(path)
    if sweep is None and importlib.util.find_spec("transformers") is None:
        raise PlanError('language models need transformers: pip install "geomfast[hf]"')
    if path.exists():
        if revisions:
            raise PlanError(f"--revisions are of a model on the hub; {source} is here")
        if not path.is_dir():
            raise PlanError(f"{source} is a file, not a folder of checkpoints")
        if sweep is not None:
            if probes is not None or dtype is not None:
                raise PlanError(
                    f"{source} is of a sweep, which is measured on the samples of its own tasks in "
                    "its own type: no --probes and no --dtype"
                )
            return [*of_sweep(*sweep, **changes)]
        parent, checkpoints = checkpoints_in(path)
        alone = parent != path.resolve()
        name = path.resolve().name if alone and not checkpoints[0].step else parent.name
        plain_name(name, "the run, named like the folder,")
        return [FolderSeries(name, checkpoints, Probing.asked(probes, dtype, changes), parent)]
    if not _MODEL_ID.fullmatch(source):
        raise PlanError(f"no such folder: {source}")
    checkpoints = revisions_of(source, revisions)
    # Not relative: a worker of a cluster has another working directory.
    downloads = None if keep_cache else out.resolve() / _DOWNLOADS
    name = source.split("/")[-1]
    probing = Probing.asked(probes, dtype, changes)
    return [HubSeries(name, checkpoints, probing, source, downloads)]


def jobs_of(
    series: Sequence[Series],
    measures: tuple[str, ...],
    out: Path,
    *,
    device: str,
    threads: int,
    workers: int | None,
    cadence: Cadence | None = None,
) -> list[MeasureJob]:
    """Missing measures of some series, split into as many jobs as there are workers.

    Args:
        series: all of them.
        measures: asked for.
        out: folder of the results.
        device, threads: of each job.
        workers: jobs at once; None where that is not known.
        cadence: at how many checkpoints of every one each measure is taken; at all where it is not
            named.

    Raises:
        PlanError: a file among the records is not one of their parts.
    """
    jobs = []
    for one in series:
        steps = sorted(missing(one, measures, out, cadence))
        count = min(len(steps), workers or math.ceil(len(steps) / STRETCH))
        for index in range(count):
            # Every count-th, so that all jobs get through the training at the same pace.
            own, share = tuple(steps[index::count]), (index + 1, count)
            what = (own, measures, out, device, threads, cadence or {}, share)
            jobs.append(MeasureJob(one, *what))
    return jobs


def remove_partial_writes(out: Path, jobs: Sequence[MeasureJob]) -> None:
    """Remove what processes that were killed have left behind, before any job begins.

    Downloads of what is still to be measured stay, and are resumed.

    Args:
        out: folder of the results, which the caller holds.
        jobs: all that are left.

    Raises:
        UnsafeName: links in OUT lead out of it, or are where downloads are.
    """
    refuse_links(out)
    for remains in (out / "records").rglob(".tmp-*"):
        remains.unlink(missing_ok=True)
    wanted = {
        checkpoint.folder
        for job in jobs
        for checkpoint in job.series.checkpoints
        if checkpoint.step in job.steps
    }
    downloads = out / _DOWNLOADS
    for folder in downloads.iterdir() if downloads.is_dir() else ():
        if folder.name not in wanted and not folder.name.startswith("."):
            remove_download(place_in(downloads, folder.name))
