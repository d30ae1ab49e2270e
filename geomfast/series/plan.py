"""Makes series of checkpoints from a command's source, and the jobs that measure them."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from geomfast.files import plain_name, refuse_links
from geomfast.runs.cadence import Cadence
from geomfast.runs.errors import PlanError
from geomfast.series.checkpoint import Series
from geomfast.series.folders import FolderSeries, checkpoints_in
from geomfast.series.hub import HubSeries, place_in, remove_download, revisions_of
from geomfast.series.language_model import LanguageModelSeries, Probing
from geomfast.series.patterns import USUAL_NAMES, expanded, named
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
    return Path("measured") / re.sub(r"[{},]+", "_", source.replace("/", "--"))


def series_of(
    source: str,
    revisions: Sequence[str],
    out: Path,
    changes: Mapping[str, Any],
    *,
    probes: Sequence[str] | None = None,
    texts: Sequence[str] | None = None,
    text_tokens: int | None = None,
    dtype: str | None = None,
    keep_cache: bool = False,
    names: str | None = None,
) -> list[Series]:
    """The series of checkpoints that a source is.

    Args:
        source: a folder, or the id of a model on the hub; or several, see
            :func:`geomfast.series.patterns.expanded`.
        revisions: of the model; see :func:`geomfast.series.hub.revisions_of`.
        out: folder of the results; what is downloaded passes through it.
        changes: settings of measures that are not to be the usual ones, which of a sweep's
            checkpoints are those of the sweep; what is None stays.
        probes, texts, text_tokens, dtype: of language models, see :meth:`Probing.asked`; None for
            the usual.
        keep_cache: whether downloads go to the hub's own cache, and stay.
        names: how scale and seed are read from the names of models, see
            :func:`geomfast.series.patterns.named`; None for the usual way where there are several,
            and for none where there is one.

    Raises:
        PlanError: there is no such source, or it cannot be what is asked for.
        UnsafeName: the name of its folder cannot be that of a run.
        SourceUnreachable: the hub does not answer.
    """
    # Not relative: a worker of a cluster has another working directory.
    downloads = None if keep_cache else out.resolve() / _DOWNLOADS
    what = (changes, probes, dtype, texts, text_tokens)
    sources = [source] if Path(source).exists() else expanded(source)
    if len(sources) == 1 and names is None:
        return _series_of(source, revisions, downloads, *what)
    told = named([Path(one).name for one in sources], names or USUAL_NAMES)
    found: list[Series] = []
    for one, of in zip(sources, told, strict=True):
        # Revisions of several models have the same names: to a folder of its own each.
        place = downloads and downloads / Path(one).name
        for each in _series_of(one, revisions, place, *what):
            if not isinstance(each, LanguageModelSeries):
                raise PlanError(f"{one} is of a sweep, which has its own scales and seeds")
            found.append(replace(each, named=of))
    runs = [each.run for each in found]
    if twice := next((run for run in runs if runs.count(run) > 1), None):
        raise PlanError(f"{source}: two models are called {twice}")
    return found


def _series_of(
    source: str,
    revisions: Sequence[str],
    downloads: Path | None,
    changes: Mapping[str, Any],
    probes: Sequence[str] | None,
    dtype: str | None,
    texts: Sequence[str] | None,
    text_tokens: int | None,
) -> list[Series]:
    """The series of one folder, or of one model on the hub."""
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
            if any(given is not None for given in (probes, dtype, texts, text_tokens)):
                raise PlanError(
                    f"{source} is of a sweep, which is measured on the samples of its own tasks in "
                    "its own type: no --probes and no --dtype, and no --texts"
                )
            return [*of_sweep(*sweep, **changes)]
        parent, checkpoints = checkpoints_in(path)
        alone = parent != path.resolve()
        name = path.resolve().name if alone and not checkpoints[0].step else parent.name
        plain_name(name, "the run, named like the folder,")
        probing = Probing.asked(probes, dtype, changes, texts, text_tokens)
        return [FolderSeries(name, checkpoints, probing, parent)]
    if not _MODEL_ID.fullmatch(source):
        raise PlanError(f"no such folder: {source}")
    checkpoints = revisions_of(source, revisions)
    name = source.split("/")[-1]
    probing = Probing.asked(probes, dtype, changes, texts, text_tokens)
    return [HubSeries(name, checkpoints, probing, source, downloads)]


def shared_settings(series: Sequence[Series]) -> dict[str, Any]:
    """What all values of some series share.

    Of several models the source is what they are in, so that more of them can join.
    """
    models = [one for one in series if isinstance(one, LanguageModelSeries) and one.named]
    shared = series[0].shared()
    if models:
        shared["source"] = ", ".join(sorted({f"{Path(one.where).parent}/*" for one in models}))
    return shared


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
    places = {out / _DOWNLOADS}
    places |= {of for job in jobs if (of := getattr(job.series, "downloads", None)) is not None}
    for downloads in places:
        for folder in downloads.iterdir() if downloads.is_dir() else ():
            if folder.name not in wanted and not folder.name.startswith("."):
                remove_download(place_in(downloads, folder.name))
