"""Work that a GPU repeats: captured once as a CUDA graph, then replayed without its launches.

A product or a step of a small model is hundreds of short kernels, whose launches take longer than
they do. What cannot be captured, a loss that waits for the device say, runs as it is.

When a capture pays. It costs about as much as `BREAK_EVEN` calls of the same work: one that is
watched, one that is recorded, and the making of the graph, together 15 to 50 ms where a product
takes 2 to 5. A replay then saves nearly all of a call. Hence the rule:

- Callers that know how often they will call say so. The work is captured as soon as it is warm if
  `BREAK_EVEN` calls are still to come, and never if they are not.
- A search that does not know, Lanczos say, which often ends after 4 to 9 products, is captured
  after `BREAK_EVEN` calls. Whenever it ends, that costs at most about twice what knowing would
  have: a longer search has lost those calls, a shorter one nothing.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Hashable, Iterator

import torch
from torch import Tensor

from geomfast.cuda_capture import capture

logger = logging.getLogger("geomfast")

#: Runs by the caller before `Replay.captured`: libraries choose their kernels and take their memory
#: in the first one. A second one is watched.
WARM_UP = 1

#: Calls that a capture costs as much as.
BREAK_EVEN = 10

_WAITS = "called a synchronizing CUDA operation"
_PROTOTYPE = "Synchronization debug mode is a prototype"


class Replay:
    """Captures work on one device; elsewhere than on a GPU it does nothing to it.

    Args:
        device: that the work runs on.
        what: it is, for the message that says why it is not captured.

    Attributes:
        expected: calls of each key that `call` will see in all, set by who knows; None for a number
            that nobody knows.
    """

    def __init__(self, device: torch.device, what: str):
        self.what = what
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.expected: int | None = None
        self._functions: dict[Hashable, _Function] = {}

    @property
    def captures(self) -> bool:
        """Whether work on this device may be captured."""
        return self.stream is not None

    @contextlib.contextmanager
    def on_stream(self) -> Iterator[None]:
        """Inside, work is queued on the stream that captures.

        Autograd runs a backward pass on the stream of its forward pass: what a captured function
        differentiates has to be made in here as well, and its leaves have to be fresh ones. Those
        of a user's model may have been used on another stream, for which a capture fails.
        """
        if self.stream is None:
            yield
            return
        outside = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(outside)
        with torch.cuda.stream(self.stream):
            yield
        outside.wait_stream(self.stream)

    def captured(self, work: Callable[[], None], calls: int | None = None) -> Callable[[], object]:
        """What does the same work on this stream, if possible by one launch from its second call.

        The first call runs the work as it is, and looks whether it waits for the device.

        Args:
            work: has been done `WARM_UP` times before, and reads and writes the same memory each
                time. Random numbers that it draws from torch's default generator of a GPU are, once
                it is captured, those of a copy of that generator.
            calls: that are still to come, where they are known; too few are not captured.
        """
        if self.stream is None or (calls is not None and calls < BREAK_EVEN):
            return work
        return _Captured(self.stream, self.what, work)

    def call(self, key: Hashable, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """function(x), replayed as soon as that pays.

        Args:
            key: names the function and all that it reads besides x.
            function: of one tensor; makes no random numbers.
            x: of the same shape and type at every call with one key.
        """
        if self.stream is None:
            return function(x)
        with self.on_stream():
            known = self._functions.setdefault((key, x.shape), _Function())
            known.calls += 1
            if not self._pays(known):
                return function(x)
            return known.replayed(self, function, x)

    def _pays(self, known: _Function) -> bool:
        """Whether a function is called through its graph, now that its call has been counted."""
        if known.run is not None:
            return True
        if self.expected is None:
            return known.calls > BREAK_EVEN
        return known.calls > WARM_UP and self.expected - WARM_UP >= BREAK_EVEN


class _Captured:
    """Work that becomes a graph by being called."""

    def __init__(self, stream: torch.cuda.Stream, what: str, work: Callable[[], None]):
        self.stream, self.what, self.work = stream, what, work
        self.run: Callable[[], object] = self._watched

    def __call__(self) -> object:
        return self.run()

    def _watched(self) -> None:
        with watching() as waits:
            self.work()
        if waits:
            logger.warning("%s is not captured as a CUDA graph: it waits for the device", self.what)
        self.run = self.work if waits else self._first

    def _first(self) -> object:
        try:
            self.run = capture(self.stream, self.work)
        except Exception as error:  # what was recorded has not run: the work is still to be done
            logger.warning("%s is not captured as a CUDA graph: %s", self.what, error)
            self.run = self.work
        return self.run()


@contextlib.contextmanager
def watching() -> Iterator[list[str]]:
    """Inside, waiting for the device is written down; gives what was.

    By torch's debug mode that warns: one that raises would leave a step half done. The mode that
    the user has set is restored, and warnings of other things reach the user.
    """
    before = torch.cuda.get_sync_debug_mode()
    waits: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield waits
        finally:
            torch.cuda.set_sync_debug_mode(before)
    for warning in caught:
        message = str(warning.message)
        if _WAITS in message:
            waits.append(message)
        elif _PROTOTYPE not in message:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )


class _Function:
    """A function with the memory that its graph reads and writes."""

    def __init__(self) -> None:
        self.calls = 0
        self.run: Callable[[], object] | None = None
        self.memory: dict[str, Tensor] = {}

    def replayed(self, on: Replay, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        if self.run is None:
            self.memory["given"] = x.clone()

            def work() -> None:
                self.memory["found"] = function(self.memory["given"])

            self.run = on.captured(work)
        self.memory["given"].copy_(x)
        self.run()
        return self.memory["found"].clone()
