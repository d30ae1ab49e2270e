"""Steps through the memory of a graph are those of the plain loop; a stand-in captures them."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from geomfast.testbed.training import step_graphs
from geomfast.testbed.training.precision import tf32
from geomfast.testbed.training.settings import check_precision
from geomfast.testbed.training.step_graphs import MOST_SHAPES
from tests.testbed.training.test_loop import IDENTITY, SETTINGS, after, same_weights, trainer


class Recorder:
    """In the place of a Replay on a GPU: notes what is captured, and that it ran on its stream."""

    made: "list[Recorder]"
    captures = True

    def __init__(self, device: torch.device, what: str) -> None:
        self.calls: list[int | None] = []
        self.replays = 0
        self.inside = False
        self.made.append(self)

    @contextlib.contextmanager
    def on_stream(self) -> Iterator[None]:
        self.inside = True
        yield
        self.inside = False

    def captured(self, work: Callable[[], None], calls: int | None) -> Callable[[], object]:
        self.calls.append(calls)

        def replay() -> None:
            assert self.inside
            self.replays += 1
            work()

        return replay


@pytest.fixture
def recorders(monkeypatch: pytest.MonkeyPatch) -> list[Recorder]:
    """Of every trainer made from then on."""
    Recorder.made = []
    monkeypatch.setattr(step_graphs, "Replay", Recorder)
    return Recorder.made


def test_a_step_is_captured_once_and_changes_no_bit(monkeypatch, recorders) -> None:
    captured = after(9, trainer())
    (recorder,) = recorders
    # The first step runs as it is; the capture is told how many are left after it.
    assert recorder.calls == [SETTINGS.steps - 1]
    assert recorder.replays == 8
    monkeypatch.undo()
    plain = after(9, trainer())
    assert same_weights(captured, plain) and torch.equal(captured.loss, plain.loss)


def test_shapes_that_take_turns_have_a_graph_each_up_to_a_number(monkeypatch, recorders) -> None:
    """Nine examples of two task-levels: five and four, then four and five."""
    two = after(9, trainer(batch_size=9))
    assert len(recorders[0].calls) == 2 and recorders[0].replays == 7
    monkeypatch.setattr(step_graphs, "MOST_SHAPES", 1)
    one = after(9, trainer(batch_size=9))
    assert len(recorders[1].calls) == 1 and recorders[1].replays == 4
    monkeypatch.undo()
    assert MOST_SHAPES > 1
    plain = after(9, trainer(batch_size=9))
    assert same_weights(two, plain) and same_weights(one, plain)


def test_a_loaded_state_drops_the_graphs_of_the_one_before(tmp_path: Path, recorders) -> None:
    one = after(3, trainer())
    folder = one.save(tmp_path, IDENTITY)
    after(4, one)
    one.load(folder, IDENTITY)
    after(4, one)
    (recorder,) = recorders
    assert recorder.calls == [SETTINGS.steps - 1, SETTINGS.steps - 4]


@pytest.mark.parametrize(
    ("precision", "device", "why"),
    [("tf32", "cpu", "tf32.*needs a CUDA device"), ("fp16", "cuda", "there are fp32, tf32, bf16")],
)
def test_a_precision_that_the_device_lacks_is_refused(precision, device, why) -> None:
    with pytest.raises(ValueError, match=why):
        check_precision(precision, device)
    with pytest.raises(ValueError, match=precision):
        trainer(precision=precision)


@pytest.mark.parametrize("on", [True, False])
def test_tf32_ends_with_the_step_even_where_it_fails(on: bool) -> None:
    settings = torch.backends.cuda.matmul
    before = settings.fp32_precision
    with pytest.raises(ZeroDivisionError), tf32(on):
        assert (settings.fp32_precision == "tf32") is on
        raise ZeroDivisionError
    assert settings.fp32_precision == before
    assert torch.get_float32_matmul_precision() == "highest"  # asking raises where they differ
