"""A population's plan and folder: scales, groups that grow, settings that may not change."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from geomfast.files import read_sealed
from geomfast.population import folder
from geomfast.population.folder import groups_of, merge_settings
from geomfast.population.plan import (
    PopulationSettings,
    at_point,
    check,
    recipe,
    scale_of,
    schedule,
)
from geomfast.population.points import parsed, points, read_axis
from geomfast.population.tasks import TASKS, not_taken
from geomfast.runs.errors import PlanError
from geomfast.runs.groups import GROUP_SIZE
from geomfast.runs.settings_file import write_settings

SETTINGS = PopulationSettings("count", 3, (5,), 100, 6, None, 10, 11)


def asked(
    out: Path,
    scales: list[str],
    seeds: range | list[int],
    cadence: dict[str, int] | None = None,
    varied: tuple[str, ...] = (),
    **changes: Any,
) -> dict[str, Any]:
    settings = dataclasses.replace(SETTINGS, **changes)
    tokens = dict.fromkeys(scales, 30)
    place: Any = {
        "stack": "always",
        "device": "cpu",
        "tokens": tokens,
        "cadence": cadence,
        "varied": varied,
    }
    return merge_settings(out, settings, scales, list(seeds), **place)


def test_scales_are_layers_and_width() -> None:
    scale = scale_of(SETTINGS, "3x48")
    assert (scale.layers, scale.d_model, scale.heads) == (3, 48, 3)
    assert scale.vocabulary == 3 + 2 * 5 and scale.context == 8
    assert scale_of(SETTINGS, "1x8").heads == 1
    sizes = [scale_of(SETTINGS, name).parameters for name in TASKS["count"].defaults.scales]
    assert len(sizes) >= 6 and sizes == sorted(set(sizes))
    given = dataclasses.replace(SETTINGS, learning_rate=0.5)
    assert recipe(given, "1x8")["learning_rate"] == 0.5
    for name, why in (("2x", "LAYERSxWIDTH"), ("0x8", "LAYERSxWIDTH"), ("1x40", "multiple of 16")):
        with pytest.raises(PlanError, match=why):
            scale_of(SETTINGS, name)


def test_points_vary_settings_beside_the_scale() -> None:
    axes = dict(map(read_axis, ["positions=none,rotary", "mixture=0, 0.01,1e-05"]))
    names = points(["1x16", "2x64"], axes)
    assert len(names) == 12 and names[0] == "1x16-mixture0-positions-none"
    assert names[-1] == "2x64-mixture1e-05-positions-rotary"
    assert parsed(names[-1]) == ("2x64", {"mixture": 1e-05, "positions": "rotary"})
    assert points(["1x8"], dict([read_axis("mixture=-0")])) == ["1x8-mixture0"]
    assert parsed("2x32") == ("2x32", {}) and points(["2x32"], {}) == ["2x32"]
    settings = dataclasses.replace(SETTINGS, task="question-formation", batch_size=12)
    of = at_point(settings, names[-1])
    assert (of.mixture, of.positions) == (1e-05, "rotary")
    scale = scale_of(settings, names[-1])
    assert (scale.name, scale.positions, scale.d_model) == (names[-1], "rotary", 64)
    learned = scale_of(settings, "2x64")
    assert learned.parameters == scale.parameters + learned.context * 64
    assert recipe(settings, "2x64-mixture0.1")["mixture"] == 0.1
    assert not {"mixture", "positions"} & recipe(settings, "2x64").keys()
    shorter = at_point(SETTINGS, "2x16-length2-decay0.5")
    assert (shorter.train_length, shorter.weight_decay) == (2, 0.5)
    assert shorter.variant.lengths == (2, 5)


def test_one_setting_has_one_name_and_shared_values_do_not_bind_an_axis(tmp_path: Path) -> None:
    first = asked(tmp_path, ["1x16"], range(2))
    write_settings(tmp_path, first, {})
    with pytest.raises(PlanError, match=r"1x16 and 1x16-decay0\.01 have the same settings"):
        asked(tmp_path, ["1x16-decay0.01"], range(2), varied=("weight_decay",))
    # What the points have of their own may differ from what the folder was begun with.
    grown = asked(tmp_path, ["1x16-length2"], range(2), train_length=12, varied=("train_length",))
    assert grown["settings"] == first["settings"]
    assert grown["recipes"]["1x16-length2"]["train_length"] == 2
    with pytest.raises(PlanError, match="train_length: 3 there, 12"):
        asked(tmp_path, ["1x16"], range(2), train_length=12)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mixture", "is not AXIS=VALUE"),
        ("width=1,2", "axes are mixture"),
        ("mixture=0,1.5", r"mixture='1\.5' is not a share"),
        ("mixture=0,nan", "is not a share"),
        ("mixture=0.1,0.10", "a value is there twice"),
        ("train-length=0", "is not a length"),
        ("weight-decay=-1", "is not a weight decay"),
        ("weight-decay=1e16", "is not a weight decay from 0 to 1000"),
        ("positions=learned,sinusoidal", "one of learned, none"),
    ],
)
def test_axes_that_are_none_are_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_axis(text)


def test_settings_of_other_tasks_are_named() -> None:
    assert not_taken("count", ["mixture", "steps", "train_length"]) == ["mixture"]
    assert not_taken("tense-inflection", ["embedded", "test_lengths"]) == ["test_lengths"]
    with pytest.raises(PlanError, match="even"):
        scale_of(dataclasses.replace(SETTINGS, positions="rotary"), "1x7")


def test_checkpoints_are_log_spaced_from_the_first_step_to_the_last() -> None:
    at = schedule(dataclasses.replace(SETTINGS, steps=2000, checkpoints=16))
    assert at[0] == 0 and at[-1] == 2000 and 14 <= len(at) <= 17
    assert schedule(dataclasses.replace(SETTINGS, steps=2)) == [0, 2]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch_size": 2}, "batch_size = 2 is less than train_length = 3"),
        ({"task": "reverse-add", "test_lengths": (30,)}, "length 30: reverse-add"),
        ({"measures": ("rankme", "llc")}, "llc: members go through a pass together.*: rankme"),
    ],
)
def test_what_cannot_be_trained_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(PlanError, match=said):
        check(dataclasses.replace(SETTINGS, **changes))


def test_more_seeds_and_scales_are_new_groups_and_old_ones_stay(tmp_path: Path) -> None:
    first = asked(tmp_path, ["1x16"], range(5))
    assert [group["name"] for group in first["groups"]] == ["count-1x16-seeds0-4"]
    write_settings(tmp_path, first, {"command": "a"})
    more = asked(tmp_path, ["1x16", "2x16"], range(3, 3 + GROUP_SIZE + 6))
    write_settings(tmp_path, more, {"command": "b"})
    again = json.loads((tmp_path / "settings.json").read_text())
    assert again["groups"][0] == first["groups"][0]
    seeds = [group["seeds"] for group in again["groups"]]
    assert [len(part) for part in seeds] == [5, 34, 34, 35, 35]
    assert sorted(seeds[1] + seeds[2]) == list(range(5, 73))
    grid = {"scales": ["1x16", "2x16"], "seeds": list(range(73)), "cadence": {}}
    assert again["grid"] == grid
    assert [told["command"] for told in again["calls"]] == ["a", "b"]
    assert set(again["recipes"]) == {"1x16", "2x16"}
    # Everything that records name by hash is resolved: two measures, two lengths.
    assert len(again["hashes"]) == 4
    chosen = groups_of(again, ["2x16", "1x16"], [4])
    assert [group.name for group in chosen] == ["count-2x16-seeds3-37", "count-1x16-seeds0-4"]
    assert asked(tmp_path, ["1x16"], range(5))["groups"] == again["groups"]


def test_other_settings_are_refused_with_what_differs(tmp_path: Path) -> None:
    write_settings(tmp_path, asked(tmp_path, ["1x16"], range(5)), {})
    with pytest.raises(
        PlanError, match=r"population with other settings:\n(.*\n)?  steps: 100 there, 9 "
    ):
        asked(tmp_path, ["1x16"], range(5), steps=9)
    content = read_sealed(tmp_path / "settings.json")
    content["format"] = "geomfast sweep 1"
    (tmp_path / "settings.json").write_text(json.dumps(content))
    with pytest.raises(PlanError, match="not a geomfast population's"):
        asked(tmp_path, ["1x16"], range(5))


def test_more_measures_join_also_in_folders_from_before_there_was_a_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = asked(tmp_path, ["1x16"], range(5))
    for name in ("measures", "mixture", "embedded", "weight_decay", "positions"):
        del content["settings"][name]
    write_settings(tmp_path, content, {"command": "a"})
    assert asked(tmp_path, ["1x16"], range(5))["settings"]["measures"] == ["rankme"]
    assert asked(tmp_path, ["1x16"], range(5), measures=())["settings"]["measures"] == ["rankme"]
    monkeypatch.setattr(folder, "measure_settings", lambda settings, name: {"measure": name})
    more = asked(tmp_path, ["1x16"], range(5), measures=("another",), cadence={"another": 3})
    assert more["settings"]["measures"] == ["rankme", "another"]
    assert more["grid"]["cadence"] == {"another": 3}
    assert content["hashes"].items() <= more["hashes"].items()
    assert {"measure": "another"} in more["hashes"].values()
    write_settings(tmp_path, more, {"command": "b"})
    monkeypatch.undo()  # as where the other's package is not installed
    assert asked(tmp_path, ["1x16"], range(5))["hashes"] == more["hashes"]


@pytest.mark.parametrize("damaged", [5, [["rankme"]], "rankme"])
def test_measures_that_are_no_names_are_refused(tmp_path: Path, damaged: Any) -> None:
    content = asked(tmp_path, ["1x16"], range(5))
    content["settings"]["measures"] = damaged
    write_settings(tmp_path, content, {"command": "a"})
    with pytest.raises(PlanError, match=r"measures: .* there, rankme asked for"):
        asked(tmp_path, ["1x16"], range(5))
