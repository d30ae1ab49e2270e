"""Ctrl-C is acknowledged at once, whatever else runs, and the exit code says that work is left."""

import io
import os
import signal
import time

import pytest
from rich.console import Console

from geomfast.cli.interrupts import ABORTED, STOPPING, asked_to_stop


def test_the_first_is_acknowledged_at_once_and_the_second_aborts(capfd) -> None:
    with pytest.raises(SystemExit) as ended, asked_to_stop() as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGINT)
        assert stop() and capfd.readouterr().err == f"{STOPPING}\n"
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10.0)
    assert ended.value.code == 130 and capfd.readouterr().err == f"{ABORTED}\n"


def test_in_a_terminal_it_is_said_on_the_console_once() -> None:
    shown = io.StringIO()
    with asked_to_stop(Console(file=shown, force_terminal=True, width=200)) as stop:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop()
    assert shown.getvalue().count(STOPPING) == 1
