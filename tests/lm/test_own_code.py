"""Folders that ask for code of theirs to be run: nothing is, though somebody answers yes."""

import json
import os
import pickle
import pty
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from geomfast.lm import own_code
from geomfast.lm.hub import CorruptCheckpoint, OwnCode
from tests.lm.language_models import network, tokenizer

#: Loads every folder that is named, in one process, and says what came of each.
LOADS = """
import json, sys
from geomfast.lm.causal_lm import load
found = {}
for folder in sys.argv[1:]:
    try:
        load(folder)
        found[folder] = ["loaded", ""]
    except Exception as error:
        found[folder] = [type(error).__name__, str(error)]
print("FOUND" + json.dumps(found))
"""


def change(file: Path, **fields: Any) -> None:
    told = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(told | fields))


def unknown_model(folder: Path) -> None:
    names = {"AutoConfig": "code.Thing", "AutoModelForCausalLM": "code.Thing"}
    change(folder / "config.json", model_type="never_heard_of", auto_map=names)


def known_model_with_code(folder: Path) -> None:
    names = {"AutoConfig": "code.Thing", "AutoModelForCausalLM": "code.Thing"}
    change(folder / "config.json", auto_map=names)


def no_model_type(folder: Path) -> None:
    change(folder / "config.json", model_type=None, auto_map={"AutoConfig": "code.Thing"})


def nested(folder: Path) -> None:
    inner = {"model_type": "never_heard_of", "auto_map": {"AutoConfig": "code.Thing"}}
    change(folder / "config.json", text_config=inner)


def own_tokenizer(folder: Path) -> None:
    names = {"AutoTokenizer": ["code.Thing", "code.Thing"]}
    change(folder / "tokenizer_config.json", auto_map=names, tokenizer_class="Thing")


def own_tokenizer_as_of_old(folder: Path) -> None:
    change(folder / "tokenizer_config.json", auto_map=["code.Thing", None], tokenizer_class="Thing")


def tokenizer_of_unknown_model(folder: Path) -> None:
    own_tokenizer(folder)
    unknown_model(folder)


def code_of_the_hub(folder: Path) -> None:
    names = {"AutoConfig": "someone/else--code.Thing"}
    change(folder / "config.json", model_type="never_heard_of", auto_map=names)


def kernel_of_the_hub(folder: Path) -> None:
    change(folder / "config.json", attn_implementation="someone/kernel")


def generate(folder: Path) -> None:
    (folder / "custom_generate").mkdir()
    shutil.copy(folder / "code.py", folder / "custom_generate" / "generate.py")
    change(folder / "generation_config.json", custom_generate=str(folder))


class Runs:
    """What runs a command when it is unpickled."""

    def __init__(self, command: str):
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    mark = (folder / "mark").read_text()
    torch.save({"lm_head.weight": Runs(f"touch {mark}")}, folder / "pytorch_model.bin")


def plainly_pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    mark = (folder / "mark").read_text()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Runs(f"touch {mark}")))


def adapter(folder: Path, **fields: Any) -> None:
    (folder / "config.json").unlink()
    change(folder / "adapter_config.json", base_model_name_or_path=str(folder), **fields)


def adapter_of_a_module(folder: Path) -> None:
    names = {"parent_library": "code", "base_model_class": "Thing"}
    adapter(folder, peft_type="LORA", auto_mapping=names)


def adapter_with_megatron(folder: Path) -> None:
    adapter(folder, peft_type="LORA", megatron_config={"a": 1}, megatron_core="code")


REFUSED = (unknown_model, no_model_type, nested, own_tokenizer, own_tokenizer_as_of_old)
REFUSED += (tokenizer_of_unknown_model, code_of_the_hub, kernel_of_the_hub)
REFUSED += (adapter_of_a_module, adapter_with_megatron)
CORRUPT = (pickled, plainly_pickled)
LOADED = (known_model_with_code, generate)


def made(folder: Path, mark: Path, ask: Callable[[Path], None]) -> Path:
    network("GPTNeoX").save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    code = f"open({str(mark)!r}, 'w').close()\nclass Thing:\n    pass\ndef generate(model): ...\n"
    (folder / "code.py").write_text(code)
    (folder / "mark").write_text(str(mark))
    ask(folder)
    return folder


def answered_yes(arguments: list[str], home: Path, cwd: Path) -> tuple[int, str]:
    """Exit code and output of a program on a terminal at which somebody always answers yes."""
    ours, its = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdin=its,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cwd,
        env={**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"},
    )
    os.close(its)
    done = threading.Event()

    def answer() -> None:
        while not done.wait(0.2):
            os.write(ours, b"y\n")

    answering = threading.Thread(target=answer)
    answering.start()
    try:
        said, _ = process.communicate(timeout=120)
    finally:
        done.set()
        answering.join()
        os.close(ours)
    return process.returncode, said


def test_no_code_of_a_checkpoint_runs(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    folders = {
        ask: made(tmp_path / ask.__name__, mark, ask) for ask in (*REFUSED, *CORRUPT, *LOADED)
    }
    # Where Python finds modules by their plain names, as beside a script of the user's.
    code, said = answered_yes(
        ["-c", LOADS, *map(str, folders.values())], tmp_path / "home", folders[unknown_model]
    )
    assert code == 0, said
    assert not mark.exists()
    assert "[y/N]" not in said
    found = json.loads(said.rpartition("FOUND")[2])
    for ask, folder in folders.items():
        kind, why = found[str(folder)]
        wanted = "loaded" if ask in LOADED else "OwnCode" if ask in REFUSED else "CorruptCheckpoint"
        assert kind == wanted, (ask.__name__, kind, why)
        assert "\n" not in why
        assert kind != "OwnCode" or ("never run" in why and str(folder) in why)


def test_the_command_refuses_it_in_a_line(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    series = tmp_path / "series"
    made(series / "step1", mark, unknown_model)
    made(series / "step2", mark, own_tokenizer)
    arguments = ["-m", "geomfast.cli.main", "measure", str(series), "--threads", "1"]
    code, said = answered_yes(arguments, tmp_path / "home", series / "step1")
    assert code == 1, said
    assert not mark.exists()
    assert "Traceback" not in said and "[y/N]" not in said
    assert said.count("is never run") >= 2  # a line as it happens, and one at the end


def test_the_code_of_these_tests_would_leave_a_mark(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    folder = made(tmp_path / "it", mark, unknown_model)
    subprocess.run([sys.executable, "code.py"], check=True, cwd=folder)
    assert mark.exists()
    mark.unlink()
    pickled(folder)
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert mark.exists()


@pytest.mark.parametrize(
    "told",
    [
        {"peft_type": "LORA"},
        {"auto_mapping": None, "megatron_config": None, "megatron_core": "megatron.core"},
        {"auto_mapping": {"parent_library": "transformers.models.gpt2.modeling_gpt2"}},
    ],
)
def test_what_peft_writes_itself_is_taken(told: dict[str, Any]) -> None:
    own_code.refuse_adapter_code(told, "adapter_config.json", "it")


@pytest.mark.parametrize("library", ["os", "transformers_modules.code", 3, "", "code"])
def test_other_modules_are_not(library: Any) -> None:
    with pytest.raises(OwnCode, match="auto_mapping"):
        own_code.refuse_adapter_code({"auto_mapping": {"parent_library": library}}, "a.json", "it")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b"\0" * 500, "is empty"),
        (b"\xff\xfe{", "cannot be read"),
        (b'{"model_type": ', "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b"[]", "not a JSON object"),
        (b"null", "is empty"),
        (b"7", "not a JSON object"),
    ],
)
def test_damaged_objects_are_named(tmp_path: Path, content: bytes, why: str) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with pytest.raises(CorruptCheckpoint, match=why) as raised:
        own_code.read_object(file, "it")
    assert str(file) in str(raised.value) and "copy it again" in str(raised.value)
    assert "\n" not in str(raised.value)
