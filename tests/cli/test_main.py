"""The list of commands: all of them, said as they are, without importing what they need."""

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from geomfast.cli.main import COMMANDS, main

HEAVY = ("torch", "pandas", "scipy", "numpy", "pyarrow", "matplotlib")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_under_its_name(name):
    command = main.get_command(click.Context(main), name)
    assert isinstance(command, click.Command) and command.name == name
    done = CliRunner().invoke(main, [name, "--help"])
    assert done.exit_code == 0 and f"main {name} [OPTIONS]" in done.output


def test_the_help_lists_all_and_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from geomfast.cli.main import main\n"
        "main(['--help'], standalone_mode=False)\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[-1] == "[]"
    for name, (_, said) in COMMANDS.items():
        assert any(line.split()[:1] == [name] and said[:40] in line for line in lines), name


@pytest.mark.parametrize("name", ["swep", "calibrate_llc", "main"])
def test_what_is_no_command_is_refused(name):
    done = CliRunner().invoke(main, [name])
    assert done.exit_code == 2 and f"No such command '{name}'" in done.output


def test_an_option_under_its_old_name_works_and_is_said_to_be_renamed(tmp_path):
    done = CliRunner().invoke(main, ["sweep", str(tmp_path), "--gpus-per-cell=0.5"])
    assert done.exit_code == 2 and "--gpus-per-run needs --engine ray" in done.output
    assert "--gpus-per-cell is deprecated; use --gpus-per-run" in done.output


def test_the_help_takes_half_a_second_of_processor_time_at_most():
    code = (
        "import resource, runpy, sys\n"
        "sys.argv = ['geomfast', '--help']\n"
        "try:\n    runpy.run_module('geomfast', run_name='__main__')\n"
        "except SystemExit:\n    pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_utime)"
    )
    took = [
        float(subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()[-1])
        for _ in range(3)
    ]
    assert min(took) < 0.5, took


def test_interrupted_anywhere_it_says_so_and_exits_with_130(monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("geomfast.cli.doctor._findings", interrupted)
    done = CliRunner().invoke(main, ["doctor"])
    assert done.exit_code == 130 and done.output.startswith("Aborted.")
