"""Every code block of the documentation: Python is run, commands are run tiny or parsed.

A comment before a block says how it is tested, and is not shown on the site:

- ``<!-- test: --steps 2 ... -->``: options that are added to a command, which is then run;
- ``<!-- test: skip: REASON -->``: not run; only for what needs a network, a cluster or minutes.
"""

import importlib.util
import re
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from click.shell_completion import get_completion_class
from click.testing import CliRunner

from geomfast.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
#: The tutorial's page is made by running its script: see test_tutorial.py.
PAGES = sorted(p for p in DOCS.rglob("*.md") if p.parent.name not in ("design", "tutorial"))
_BLOCK = re.compile(
    r"(?:<!-- test: (?P<test>[^\n]*?) -->\n)?^```(?P<language>\w*)[^\n]*\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
LANGUAGES = {"python", "bash", "json", "toml", "text"}
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
MAKE = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
#: Modules a page needs, which an extra brings.
NEEDS = {"hugging-face.md": ("transformers", "accelerate"), "lightning.md": ("lightning",)}


@dataclass(frozen=True)
class Block:
    language: str
    body: str
    test: str


def blocks(page: Path) -> list[Block]:
    return [
        Block(found["language"], found["body"], found["test"] or "")
        for found in _BLOCK.finditer(page.read_text())
    ]


def commands(body: str) -> list[list[str]]:
    """Words of every line that is no comment; a backslash goes on in the next."""
    lines = body.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def parse(words: list[str]) -> None:
    """Raises what click raises of a geomfast command that it would not take."""
    context = click.Context(main, info_name="geomfast")
    name, command, rest = main.resolve_command(context, words)
    assert command is not None
    command.make_context(name, rest, parent=context)


def known(words: list[str]) -> None:
    """Of other commands: that what they name is there."""
    if words[0] == "make":
        assert words[1] in MAKE, words
    elif words[:2] == ["pip", "install"]:
        for extra in re.findall(r"\[([\w,]+)\]", words[-1]):
            assert set(extra.split(",")) <= set(EXTRAS), words
    elif words[:2] == ["lm_eval", "run"]:
        # Of another package: that it writes what the next command reads.
        assert {"--output_path", "--model_args"} <= set(words), words
    elif words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(words[2]), words
    elif found := re.search(r"_GEOMFAST_COMPLETE=(\w+)_source geomfast\b", shlex.join(words)):
        assert get_completion_class(found[1]), words
    else:
        raise AssertionError(f"a command that nothing here checks: {shlex.join(words)}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
@pytest.mark.filterwarnings("ignore")  # of the libraries
def test_page(page, tmp_path, monkeypatch):
    for module in NEEDS.get(page.name, ()):
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for block in blocks(page):
        if block.test.startswith("skip:"):
            assert len(block.test) > len("skip: ") + 10, "a reason, please"
            continue
        assert block.language in LANGUAGES, f"{page.name}: say the language of {block.body:.60}"
        if block.language == "python":
            exec(compile(block.body, page.name, "exec"), names)
        elif block.language == "bash":
            for words in commands(block.body):
                if words[0] != "geomfast":
                    known(words)
                elif block.test:
                    given = [*words[1:], *shlex.split(block.test)]
                    done = CliRunner().invoke(main, given, catch_exceptions=False)
                    assert done.exit_code == 0, done.output
                else:
                    existing(words[1:], tmp_path)
                    parse(words[1:])


def existing(words: list[str], folder: Path) -> None:
    """Makes the files that a command reads, where click asks whether they are there."""
    for word in words[1:]:
        if "/" in word and not word.startswith("EleutherAI") and not Path(word).suffix:
            (folder / word).mkdir(parents=True, exist_ok=True)
        elif word.endswith(".jsonl"):
            for name in word.split(","):
                if name.endswith(".jsonl"):
                    (folder / name).touch()


def test_a_wrong_option_would_be_found():
    parse(["sweep", "out/x", "--steps", "3"])
    for words in (
        ["sweep", "out/x", "--stepz", "3"],
        ["sweep", "out/x", "--steps", "no"],
        ["swep"],
    ):
        with pytest.raises(click.UsageError):
            parse(words)
    with pytest.raises(AssertionError):
        known(["rm", "-rf", "out"])


def test_pages_have_blocks():
    assert sum(len(blocks(page)) for page in PAGES) > 30
