"""A group of members: what it records, how it resumes, members that fail."""

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from geomfast.estimators.activations import observe as observe_one
from geomfast.estimators.spectra import rankme
from geomfast.population import job as module
from geomfast.population import measuring, running
from geomfast.population.job import missing
from geomfast.population.measuring import measure, observe, probes_of
from geomfast.population.plan import PopulationSettings, at_point, scale_of, schedule
from geomfast.population.running import GroupJob
from geomfast.records import load_records
from geomfast.runs.errors import PlanError, RunError
from geomfast.runs.executors.events import attempt
from geomfast.runs.failures import failed_before
from geomfast.runs.groups import Group
from geomfast.testbed.models.stacked import StackedGPT
from geomfast.testbed.tasks import GRAMMAR_TASKS
from geomfast.testbed.training.stacked import StackedTrainer
from tests.recorded import values

SETTINGS = PopulationSettings("count", 3, (5,), 12, 6, None, 10, 11)
SEEDS = (1, 0, 5)
GROUP = Group("count-2x16-seeds1-5", "2x16", SEEDS, 2)


def job(out: Path, group: Group = GROUP, **changes: Any) -> GroupJob:
    return GroupJob(group, dataclasses.replace(SETTINGS, **changes), out, "cpu", threads=1)


def test_every_checkpoint_has_every_value(tmp_path: Path) -> None:
    assert job(tmp_path).run()
    frame = load_records(tmp_path)
    at = schedule(SETTINGS)
    assert at[0] == 0 and at[-1] == 12 and len(at) >= 8
    # 3 members x 2 lengths x (accuracy, nats, RankMe of two blocks and the final state)
    assert len(frame) == len(at) * 3 * 2 * 5
    assert sorted(frame["step"].unique()) == at
    assert set(frame["run"]) == {f"count-2x16-seed{seed}" for seed in SEEDS}
    assert set(frame["level"]) == {3, 5} and set(frame["task"]) == {"COUNT"}
    assert set(frame["measure"]) == {"accuracy", "answer_nats", "rankme"}
    ranks = frame[frame["measure"] == "rankme"]
    assert set(ranks["layer"]) == {"block 1", "block 2", "final"}
    assert ranks["value"].between(1.0, 10.0).all() and ranks["stderr"].isna().all()
    behaviour = frame[frame["measure"] != "rankme"]
    assert not behaviour.isna().any().any() and (behaviour["layer"] == "").all()
    nats = behaviour[behaviour["measure"] == "answer_nats"].groupby("step")["value"].mean()
    assert nats[0] == pytest.approx(2.6, abs=0.2) and nats[12] < nats[0]
    assert frame["weights"].nunique() == 3 * len(at)
    # 6 examples of 1 to 3 numbers, two of each, in a prompt of three tokens: [eos] is not put in.
    assert (frame["tokens"] == frame["step"] * 2 * (4 + 5 + 6)).all()
    assert missing(job(tmp_path)) == {} and job(tmp_path).run()


@pytest.mark.parametrize("task", ["count", "reverse-add"])
def test_measures_are_those_of_each_member_alone(task: str) -> None:
    settings = dataclasses.replace(SETTINGS, task=task)
    model = StackedGPT(scale_of(settings, "2x16"), SEEDS)
    probes = probes_of(settings, torch.device("cpu"))
    with torch.no_grad():
        model.weights *= 3.0  # else every member says the same of all samples
    rows = pd.DataFrame(measure(model, SEEDS, probes, settings, {0: 7}))
    assert set(rows["seed"]) == {1, 5}
    for probe in probes:
        states, (exact,), (nats,) = observe(model, probe)
        (part,), (judged,) = probe.parts, probe.judged
        for i in range(3):
            gpt = model.member(i)

            def call(tokens, collect, gpt=gpt, part=part):
                return gpt(tokens, collect, part.starts)

            alone = observe_one(call, part.tokens, part.answer_start)
            torch.testing.assert_close(states[i], alone.activations, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(exact[i], alone.exact)
            torch.testing.assert_close(nats[i], -alone.logprob, rtol=1e-4, atol=1e-6)
            own = rows[(rows["seed"] == SEEDS[i]) & (rows["level"] == judged.named["level"])]
            if len(own):
                of = own.set_index(["measure", "layer"])["value"]
                assert of["answer_nats", ""] == pytest.approx(float(nats[i].mean()))
                final = float(rankme(alone.activations[-1]))
                assert of["rankme", "final"] == pytest.approx(final, rel=1e-4)


def grammar(task: str, **changes: Any) -> PopulationSettings:
    found = dataclasses.replace(SETTINGS, task=task, train_length=0, test_lengths=(), batch_size=8)
    return dataclasses.replace(found, samples=50, **changes)


@pytest.mark.parametrize("task", ["question-formation", "tense-inflection"])
def test_a_grammar_task_is_judged_by_the_word_that_tells_the_rules_apart(task: str) -> None:
    settings = grammar(task)
    of = GRAMMAR_TASKS[task]
    model = StackedGPT(scale_of(settings, "2x16"), SEEDS)
    with torch.no_grad():
        model.weights *= 3.0
    rows = pd.DataFrame(
        measure(model, SEEDS, probes_of(settings, torch.device("cpu")), settings, {})
    )
    value = rows.set_index(["seed", "task", "measure", "layer"])["value"]
    assert set(rows["task"]) == set(of.outcomes) and set(rows["n"]) == {50}
    assert rows["data"].nunique() == 4
    ranked = rows.loc[rows["measure"] == "rankme", "task"]
    assert set(ranked) == set(of.outcomes[:2])
    for i, seed in enumerate(SEEDS):
        gpt, right, whole, wrong = model.member(i), [], [], []
        for part in settings.test_sets[1].parts:
            tokens = torch.from_numpy(part.tokens)
            logs = gpt(tokens[:, :-1]).double().log_softmax(-1)[:, part.answer_start - 1 :]
            answers = tokens[:, part.answer_start :]
            own = of.diagnostic((tokens.shape[1] - 4) // 2, len(tokens), apart=True)
            for n, place in enumerate(own.decisive):
                whole.append(-logs[n, torch.arange(answers.shape[1]), answers[n]].mean())
                right.append(-logs[n, place, answers[n, place]])
                wrong.append(-logs[n, place, own.linear[n]])
        for name, nats in zip(of.outcomes[1:], (right, wrong, whole), strict=True):
            mean = torch.stack(nats).mean().item()
            assert value[seed, name, "answer_nats", ""] == pytest.approx(mean, rel=1e-5)


def test_a_population_of_a_mixture_resumes_to_the_same_records(tmp_path: Path) -> None:
    settings = at_point(grammar("tense-inflection", steps=12), "1x16-mixture0.5")
    group = Group("tense", "1x16-mixture0.5", SEEDS, 3)
    found = []
    for name, stops in (("whole", ()), ("stopped", (4, 8))):
        of = GroupJob(group, settings, tmp_path / name, "cpu", 1, state_every=0.0)
        for most in stops:
            seen: list[int] = []
            of.run(progress=lambda *_: None, stop=lambda s=seen, m=most: s.append(1) or len(s) > m)
        assert of.run()
        found.append(values(tmp_path / name))
    pd.testing.assert_frame_equal(*found)
    assert set(found[0]["scale"]) == {"1x16-mixture0.5"}


def test_samples_taken_in_parts_are_judged_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    model = StackedGPT(scale_of(SETTINGS, "2x16"), SEEDS)
    probe = probes_of(SETTINGS, torch.device("cpu"))[1]
    whole = observe(model, probe)
    monkeypatch.setattr(measuring, "_BYTES", 200_000)
    for found, expected in zip(observe(model, probe), whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_members_alone_end_with_the_same_exact_match() -> None:
    """Rounding differs between programs of other sizes, and training magnifies it: by the end the
    weights differ, and what was learned does not, within the noise of the samples."""
    settings = dataclasses.replace(SETTINGS, steps=120, learning_rate=1e-2, samples=200)
    found = []
    for together in (3, 1):
        group = Group("", "1x16", (0, 1, 2), together)
        trainer = GroupJob(group, settings, Path(), "cpu", 1).trainer()
        trainer.advance(120)
        probe = probes_of(settings, torch.device("cpu"))[0]
        seen = [observe(program.model, probe) for program in trainer.programs]
        found.append(torch.cat([exact.mean(1) for _, (exact,), _ in seen]))
    stacked, alone = found
    assert stacked.max() > 0.1  # something was learned
    noise = (stacked * (1 - stacked) / 200).sqrt() + 1 / 200
    assert ((stacked - alone).abs() <= 3 * noise).all()


def test_an_interrupted_group_ends_with_the_same_records(tmp_path: Path) -> None:
    job(tmp_path / "straight").run()
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked % 3 == 0

    for _ in range(10):
        if job(tmp_path / "cut").run(stop=stop):
            break
    assert asked > 3
    pd.testing.assert_frame_equal(values(tmp_path / "cut"), values(tmp_path / "straight"))


def test_records_that_are_lost_are_made_again(tmp_path: Path) -> None:
    job(tmp_path).run()
    before = values(tmp_path)
    lost = sorted((tmp_path / "records").rglob("*.parquet"))[3]
    lost.unlink()
    assert job(tmp_path).run()
    pd.testing.assert_frame_equal(values(tmp_path), before)


def test_a_member_that_fails_is_left_out_and_the_others_are_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job(tmp_path / "healthy").run()

    def poisoned(one: GroupJob) -> StackedTrainer:
        trainer = StackedTrainer(
            scale_of(one.settings, one.group.scale),
            one.group.seeds,
            running.train_settings(one.settings),
            running.batches_of(one.settings, "cpu"),
            one.group.members_per_program,
        )
        with torch.no_grad():
            # Finite in the first forward pass, and beyond float32 in the loss.
            trainer.programs[0].model.weights[1] *= 1e25
        return trainer

    monkeypatch.setattr(GroupJob, "trainer", poisoned)
    # Its state at step 0 is finite, but what it computes is not: such a run starts measured.
    first = lambda one: dict(list(module.wanted(one).items())[1:])  # noqa: E731
    monkeypatch.setattr(module, "missing", first)
    assert job(tmp_path / "ill").run()
    frame, healthy = values(tmp_path / "ill"), values(tmp_path / "healthy")
    assert set(frame["seed"]) == {1, 5}
    expected = healthy[(healthy["seed"] != 0) & (healthy["step"] > 0)].reset_index(drop=True)
    pd.testing.assert_frame_equal(frame, expected)
    found = failed_before(tmp_path / "ill")
    assert list(found) == ["count-2x16-seed0"]
    assert "not finite at step 0 (learning rate" in found["count-2x16-seed0"]


def test_a_group_goes_on_only_as_it_was_begun(tmp_path: Path) -> None:
    stops = iter([False, True])
    assert not job(tmp_path).run(stop=lambda: next(stops))
    other = job(tmp_path, dataclasses.replace(GROUP, members_per_program=3))
    with pytest.raises(RunError, match=r"at_once 2 there, 3 here.*\n.*delete"):
        other.run()
    event = attempt(other, lambda event: None, lambda: False, patience=0.0)
    assert (event.kind, event.explained) == ("failed", True)
    assert (
        attempt(job(tmp_path), lambda event: None, lambda: False, patience=0.0).kind == "finished"
    )


def test_foreign_files_among_the_records_are_named(tmp_path: Path) -> None:
    stray = job(tmp_path).records / "notes.parquet"
    stray.parent.mkdir(parents=True)
    stray.write_text("x")
    with pytest.raises(PlanError, match=r"notes\.parquet is not a part"):
        missing(job(tmp_path))
