"""``geomfast population --base``: seeds of pre-trained models on a task of multiple choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from rich.console import Console

from geomfast.cli.choices import Finite, Place, Words
from geomfast.cli.dry_run import print_plan
from geomfast.cli.engine import check_device, chosen_engine
from geomfast.cli.options import asked_cadence, together
from geomfast.cli.outcome import finish, say
from geomfast.cli.working import described_call, refusals, run_work
from geomfast.files import FileError, plain_name
from geomfast.population.base.plan import (
    HEAD,
    IN_TURN,
    LAST_BLOCK,
    LEARNING_RATES,
    TRAINED,
    Base,
    BaseSettings,
    check,
    run_name,
)
from geomfast.runs.errors import PlanError
from geomfast.runs.executors.engine import Engine
from geomfast.runs.folder import check_folder
from geomfast.runs.locks import locked
from geomfast.runs.outcome import outcome_of, result
from geomfast.runs.settings_file import check_still_there, write_settings
from geomfast.testbed.training.settings import PRECISIONS, check_precision

if TYPE_CHECKING:  # which bring torch with them
    from geomfast.population.base.job import BaseGroupJob
    from geomfast.population.base.prepared import Prepared

_STEPS, _BATCH = 2000, 16
#: Options of the command that mean the same of a base.
_SHARED = {
    *("out", "seeds", "steps", "batch_size", "learning_rate", "weight_decay", "samples"),
    *("measures", "cadence", "checkpoints", "stack", "state_every", "no_lock", "dry_run"),
    *("as_json", "device", "engine", "workers", "threads", "address", "gpus_per_run"),
}
#: Options that only a base has.
_OWN = {
    *("bases", "revision", "reinit", "train", "test", "task_name", "trained", "precision"),
    *("accumulation", "memory"),
}

base_options = together(
    click.option(
        "--base",
        "bases",
        multiple=True,
        metavar="MODEL",
        help="Start from this pre-trained language model, a folder or a name on the hub, instead "
        "of a task of geomfast's own; repeat for several, which are the scales.",
    ),
    click.option("--revision", help="With --base: branch, tag or commit of the base on the hub."),
    click.option(
        "--reinit",
        type=Words("part", (LAST_BLOCK, HEAD)),
        help="With --base: parts to initialise anew for every seed: last-block, head, or names of "
        f"modules, where * stands for anything.  [default: {LAST_BLOCK},{HEAD}]",
    ),
    click.option(
        "--train",
        type=Place("file", path_type=Path, dir_okay=False),
        help="With --base: JSONL file to train on; each line has prompt, choices and answer.",
    ),
    click.option(
        "--test",
        type=Place("file", path_type=Path, dir_okay=False),
        help="With --base: JSONL file to test on.",
    ),
    click.option("--task-name", help="With --base: task in the records.  [default: name of TEST]"),
    click.option(
        "--trained",
        type=click.Choice(list(TRAINED)),
        help="With --base: "
        + "; ".join(f"{name}: {what}" for name, what in TRAINED.items())
        + ".  [default: reinitialised]",
    ),
    click.option(
        "--precision",
        type=click.Choice(list(PRECISIONS)),
        help="With --base and --trained all: precision of matrix products.  [default: fp32]",
    ),
    click.option(
        "--accumulation",
        type=click.IntRange(1),
        help="With --base and --trained all: parts that a batch is split into to save memory.  "
        "[default: 1]",
    ),
    click.option(
        "--memory",
        type=Finite(0, min_open=True),
        metavar="GIB",
        help="With --base: memory that a group of seeds may take.  [default: half of what is free]",
    ),
)


def with_base() -> bool:
    """Whether a base is asked for.

    Raises:
        click.UsageError: an option that does not go with it, or needs it.
    """
    context = click.get_current_context()
    given = {
        str(option.name): option.opts[0]
        for option in context.command.params
        if context.get_parameter_source(str(option.name)) is ParameterSource.COMMANDLINE
    }
    asked = "bases" in given
    for name, shown in given.items():
        if asked and name not in _SHARED | _OWN:
            raise click.UsageError(f"{shown} is for geomfast's own tasks, not for --base")
        if not asked and name in _OWN:
            raise click.UsageError(f"{shown} needs --base")
    for name in ("train", "test"):
        if asked and name not in given:
            raise click.UsageError(f"--base needs --{name}, a JSONL file of multiple choice")
    return asked


def run(out: Path, seeds: tuple[int, ...], options: dict[str, Any]) -> None:
    """Train and measure seeds of all bases, or plan it.

    Args:
        out: the population's folder.
        seeds: of the members.
        options: the command's others.
    """
    cadence = asked_cadence(options["cadence"], options["measures"])
    console = Console(stderr=options["as_json"])
    dry = options["dry_run"]
    with refusals():
        check_folder(out, make=not dry)
        engine = chosen_engine(options)
        with nullcontext() if dry else locked(out, str(out)):
            planning = _Planning(out, seeds, options, engine, cadence)
            with console.status("loading the bases"):
                content, jobs = planning.done()
            if dry:
                plan = planning.estimated(jobs, console)
                print_plan(plan, console, as_json=options["as_json"])
                return
            for line in planning.remarks:
                say(console, line)
            write_settings(out, content, described_call())
            outcome = _run(out, jobs, engine, console, content["calls"])
            check_still_there(out)
    finish(outcome, _told, console, as_json=options["as_json"])


class _Planning:
    """What a call asks for, checked against the bases and files themselves."""

    def __init__(
        self,
        out: Path,
        seeds: tuple[int, ...],
        options: dict[str, Any],
        engine: Engine,
        cadence: dict[str, int],
    ) -> None:
        self.out, self.seeds, self.options = out, seeds, options
        self.engine, self.cadence = engine, cadence
        self.remarks: list[str] = []
        self._prepared: dict[str, Prepared] = {}

    def done(self) -> tuple[dict[str, Any], list[BaseGroupJob]]:
        """The new content of the folder's settings, and the jobs of the requested groups.

        Raises:
            PlanError: a base, file or setting that cannot be used.
        """
        # These bring torch with them, so they come after everything that can be refused early.
        from geomfast.population.base.examples import content_hash, in_both, read_examples
        from geomfast.population.base.folder import merge_settings, scale_names
        from geomfast.population.base.job import BaseGroupJob
        from geomfast.population.base.memory import free_bytes
        from geomfast.population.base.prepared import described, loaded
        from geomfast.population.folder import groups_of

        options, engine = self.options, self.engine
        train, test = options["train"], options["test"]
        sets = read_examples(train), read_examples(test)
        settings = self._settings(*map(content_hash, sets))
        check(settings)
        both = in_both(*sets)
        if both:
            self.remarks.append(f"{_many(both, 'test example')} also among those to train on.")
        bases: list[Base] = []
        for name, source in self._named(scale_names).items():
            # The device's own memory is for the groups.
            lm = loaded(source, options["revision"], "cpu")
            made = described(lm, name, settings, *sets, stack=options["stack"] != "never")
            bases.append(made.base)
            self.remarks += _remarks(made.base, settings)
            if options["dry_run"]:
                self._prepared[name] = made
        # Of what is tested: examples beyond --samples or the context are not.
        chance = max(base.chance for base in bases)
        room_bytes = free_bytes(engine.device, engine.workers or 1)
        if options["memory"]:
            room_bytes = int(options["memory"] * 2**30)
        content = merge_settings(
            self.out,
            settings,
            bases,
            self.seeds,
            examples={
                **{"train file": train.name, "train": len(sets[0].items)},
                **{"test file": test.name, "test": len(sets[1].items)},
                **{"in both": both, "chance": chance},
            },
            success=(1 + chance) / 2,
            room=room_bytes,
            device=engine.device,
            cadence=self.cadence,
        )
        scales = [base.name for base in bases]
        groups = groups_of(content, scales, self.seeds)
        self._say_groups(groups, bases, settings, room_bytes)
        named = {base.name: base for base in bases}
        files = train.resolve(), test.resolve()
        what = (self.out, engine.device, engine.threads, options["state_every"], self.cadence)
        return content, [BaseGroupJob(g, named[g.scale], settings, *files, *what) for g in groups]

    def _named(self, names: Any) -> dict[str, str]:
        try:
            return names(self.options["bases"])
        except FileError as error:
            raise PlanError(str(error)) from error

    def _settings(self, train: str, test: str) -> BaseSettings:
        options = self.options
        trained, precision = options["trained"] or next(iter(TRAINED)), options["precision"]
        context = click.get_current_context()
        some = context.get_parameter_source("samples") is ParameterSource.COMMANDLINE
        try:
            task = plain_name(options["task_name"] or options["test"].stem, "task")
            check_precision(precision or "fp32", self.engine.device.partition(":")[0])
        except (FileError, ValueError) as error:
            raise PlanError(str(error)) from error
        return BaseSettings(
            reinit=options["reinit"] or (LAST_BLOCK, HEAD),
            trained=trained,
            task=task,
            train=train,
            test=test,
            steps=options["steps"] or _STEPS,
            batch_size=options["batch_size"] or _BATCH,
            learning_rate=options["learning_rate"] or LEARNING_RATES[trained],
            weight_decay=options["weight_decay"],
            samples=options["samples"] if some else None,
            checkpoints=options["checkpoints"],
            precision=precision or "fp32",
            accumulation=options["accumulation"] or 1,
            measures=options["measures"],
        )

    def _say_groups(
        self, groups: Sequence[Any], bases: Sequence[Base], settings: BaseSettings, room: int
    ) -> None:
        from geomfast.population.base.memory import held_bytes, shared_bytes, step_bytes

        for base in bases:
            least = shared_bytes(base) + held_bytes(base) + step_bytes(base, settings)
            if least > room:
                self.remarks.append(
                    f"{base.name}: one seed alone needs about {least / 2**30:.1f} GiB, more than "
                    f"the {room / 2**30:.1f} GiB for a group."
                )
            own = [group for group in groups if group.scale == base.name]
            seeds = sum(len(group.seeds) for group in own)
            # Groups of 64 at most are nothing to speak of.
            if len(own) > -(-seeds // 64):
                size = max(len(group.seeds) for group in own)
                need = seeds * held_bytes(base) / 2**30
                self.remarks.append(
                    f"{base.name}: trained in {len(own)} groups of at most {size} seeds, since "
                    f"all {seeds} together would need {need:.1f} GiB of memory or were asked for "
                    "at different times."
                )

    def estimated(self, jobs: Sequence[BaseGroupJob], console: Console) -> dict[str, Any]:
        """The plan with its time, memory and disk."""
        from geomfast.population.base.estimate import footprint, planned

        engine = self.engine
        check_device(engine.device)  # it is timed, if the groups are for a cluster
        engine = engine.shared_by(map(footprint, jobs))
        for made in self._prepared.values():
            made.model.to(engine.device)
        with console.status("timing this machine"):
            return planned(self.out, jobs, self._prepared, engine, self.remarks)


def _remarks(base: Base, settings: BaseSettings) -> list[str]:
    """What a user should know of a base."""
    found = [
        f"{base.name}: {base.trained:,} of {base.parameters:,} parameters are trained for every "
        f"seed, {base.way}."
    ]
    if base.reason:
        found.append(f"{base.name}: its members cannot be stacked: {base.reason}.")
    if base.untied:
        found.append(
            f"{base.name}: its head is tied to the embedding; re-initialised, it has a matrix of "
            "its own, and the embedding stays."
        )
    for what, skipped in zip(("train", "test"), base.skipped, strict=True):
        if skipped:
            said = _many(skipped, f"{what} example")
            found.append(f"{base.name}: {said} skipped, longer than the context.")
    if base.with_embedding:
        found.append(
            f"{base.name}: its head is tied to an embedding that is re-initialised, and so is the "
            "head."
        )
    if base.alike:
        said = _many(base.alike, "test example")
        found.append(
            f"{base.name}: {said} of two choices with the same tokens, of which the second cannot "
            "be chosen."
        )
    return found


def _many(count: int, what: str) -> str:
    return f"1 {what} is" if count == 1 else f"{count:,} {what}s are"


def _run(
    out: Path,
    jobs: Sequence[BaseGroupJob],
    engine: Engine,
    console: Console,
    calls: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    from geomfast.cli.progress import display
    from geomfast.population.base.estimate import footprint
    from geomfast.population.job import missing
    from geomfast.runs.remaining import Piece

    engine = engine.shared_by(map(footprint, jobs))
    lacking = {job.name: missing(job) for job in jobs}
    todo = [job for job in jobs if lacking[job.name]]
    left = {job.name for job in todo}
    pieces = [
        Piece(job.name, job.group.scale, lacking[job.name], len(job.group.seeds)) for job in todo
    ]
    ended = run_work(
        out,
        todo,
        engine,
        display(console, pieces, engine, out, calls),
        console,
        succeeded=[job.name for job in jobs if job.name not in left],
        here=True,
    )
    results = []
    for job in jobs:
        facts = {
            "scale": job.base.name,
            "members": len(job.group.seeds),
            "at_once": job.group.members_per_program,
            "way": job.base.way,
        }
        here = job.name in left
        results.append(result(job.name, ended.get(job.name), left=here, group=job.name, **facts))
    members = {run_name(j.settings, j.base.name, seed) for j in jobs for seed in j.group.seeds}
    names = members | {job.name for job in jobs}
    outcome = outcome_of(out, results, names, final=members, groups=results)
    failed = {name: why for name, why in outcome["failures"].items() if name in members}
    return outcome | {"failed_members": failed}


def _told(group: Mapping[str, Any]) -> str:
    way = group["way"] if group["way"] == IN_TURN else f"{group['way']}, {group['at_once']} at once"
    told = f", {group['members']} members, {way}"
    if "train_seconds" in group:
        told += f", {group['train_seconds']:.0f} s training, "
        told += f"{group['measure_seconds']:.0f} s measuring"
    return told
