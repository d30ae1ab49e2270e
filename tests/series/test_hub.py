"""Revisions of a model on the hub, up to the network: the server is on this machine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from geomfast.lm.hub import UnknownRevision
from geomfast.runs.errors import PlanError
from geomfast.series.checkpoint import Checkpoint, SourceUnreachable
from geomfast.series.hub import HubSeries, revisions_of
from geomfast.series.language_model import Probing
from tests.lm.hub_stand_in import MODEL, Hub, stand_in


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Revisions of which nothing but their files counts."""
    for step in (0, 64, 1000):
        folder = tmp_path / "hub" / f"step{step}"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(bytes([step % 251]) * (step + 10))
        (folder / "pytorch_model.bin").write_bytes(b"the same once more")
    with stand_in(tmp_path / "hub", monkeypatch) as server:
        yield server


def series(hub: Hub, downloads: Path | None, *revisions: str) -> HubSeries:
    probing = Probing((), "float32", Probing.asked(("syntax",), None, {}).how)
    return HubSeries("tiny", revisions_of(MODEL, revisions), probing, MODEL, downloads)


def test_all_whose_name_tells_a_step(hub: Hub) -> None:
    found = revisions_of(MODEL, ("all",))
    assert found == tuple(Checkpoint(step, f"step{step}") for step in (0, 64, 1000))


def test_those_that_are_named_are_not_looked_up(hub: Hub) -> None:
    hub.dead = True
    assert revisions_of(MODEL, ("step64", "step0"))[0] == Checkpoint(0, "step0")
    assert revisions_of(MODEL, ()) == (Checkpoint(0, "main"),)


def test_fetched_and_released(hub: Hub, tmp_path: Path) -> None:
    downloads = tmp_path / "downloads"
    one = series(hub, downloads, "step0", "step64")
    first, second = one.checkpoints
    assert one.bytes_of(second) == 74
    folders = [one.fetch(checkpoint) for checkpoint in (first, second)]
    assert (folders[1] / "model.safetensors").read_bytes() == bytes([64]) * 74
    assert not (folders[1] / "pytorch_model.bin").exists()
    assert set(hub.served) == {
        (f"step{step}", name) for step in (0, 64) for name in ("config.json", "model.safetensors")
    }
    one.release(first)
    assert not folders[0].exists() and folders[1].exists()
    one.release(second)
    assert not any(downloads.iterdir())


def test_what_is_not_there(hub: Hub, tmp_path: Path) -> None:
    one = series(hub, tmp_path / "downloads", "step0", "step5")
    with pytest.raises(UnknownRevision, match="'step5'"):
        one.fetch(one.checkpoints[1])
    with pytest.raises(PlanError, match="someone/other"):
        revisions_of("someone/other", ("all",))
    gone = HubSeries("other", one.checkpoints, one.probing, "someone/other", tmp_path / "downloads")
    with pytest.raises(SourceUnreachable, match="someone/other"):
        gone.fetch(one.checkpoints[0])


def test_no_network(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = series(hub, tmp_path / "downloads", "step0")
    hub.shutdown()
    hub.server_close()
    with pytest.raises(SourceUnreachable, match=r"someone/tiny.*step0"):
        one.fetch(one.checkpoints[0])
    with pytest.raises(SourceUnreachable, match="revisions of someone/tiny"):
        revisions_of(MODEL, ("all",))
