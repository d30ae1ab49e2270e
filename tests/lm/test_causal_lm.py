"""Loading: what comes back, and what is said of all that can be wrong with a checkpoint."""

import ast
import json
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

pytest.importorskip("transformers")

import huggingface_hub

from geomfast.lm import hf, hub
from geomfast.lm.causal_lm import DTYPES, load
from geomfast.lm.hub import (
    CorruptCheckpoint,
    LoadError,
    NoNetwork,
    NotInstalled,
    NoTokenizer,
    UnknownModel,
    UnknownRevision,
    fetch,
)
from tests.lm.language_models import CONTEXT, FAMILIES, PROBES, network, save

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def copy(checkpoint, tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in checkpoint.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_saved_comes_back(family, tmp_path, capfd):
    saved = network(family)
    folder = save(tmp_path / family, family)
    capfd.readouterr()
    lm = load(folder)
    assert capfd.readouterr().err == ""  # no bars
    assert not lm.model.training and lm.revision is None and lm.name == str(tmp_path / family)
    assert lm.context == CONTEXT and lm.device == torch.device("cpu")
    for name, x in saved.state_dict().items():
        assert torch.equal(lm.model.state_dict()[name], x)
    probes = hf.encode(lm, PROBES)
    expected = hf.loss_fn(saved, probes.batch)
    assert torch.equal(hf.loss_fn(lm.model, probes.batch), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_types_of_weights(checkpoint, dtype):
    model = load(checkpoint, dtype=dtype).model
    assert {x.dtype for x in model.parameters()} == {DTYPES[dtype]}


def test_keys_and_values_are_not_kept(checkpoint):
    lm = load(checkpoint)
    assert lm.model(input_ids=torch.ones(1, 3, dtype=torch.int64)).past_key_values is None


def test_weights_of_torch(copy):
    torch.save(safetensors.torch.load_file(copy / WEIGHTS), copy / "pytorch_model.bin")
    (copy / WEIGHTS).unlink()
    load(copy)


def test_a_device_map_goes_to_transformers(checkpoint, monkeypatch):
    import transformers

    taken = transformers.AutoModelForCausalLM.from_pretrained
    given = []

    def watch(*arguments, device_map=None, **options):
        given.append(device_map)
        return taken(*arguments, **options)

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", watch)
    load(checkpoint, device_map="auto", device="nowhere")  # which the map makes unused
    assert given == ["auto"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tokenizer_from_elsewhere(checkpoint, family, tmp_path):
    folder = save(tmp_path / "bare", family, with_tokenizer=False)
    with pytest.raises(NoTokenizer, match="bare has no tokenizer"):
        load(folder)
    assert load(folder, tokenizer=checkpoint).tokenizer("the cat")["input_ids"]


# What is wrong with a folder


def test_no_such_folder(tmp_path):
    for source in (tmp_path / "gone", "./gone", "~/gone/away", "a/b/c"):
        with pytest.raises(UnknownModel, match="no such folder"):
            load(source)
    (tmp_path / "file").touch()
    with pytest.raises(UnknownModel, match="is a file, not the folder"):
        load(tmp_path / "file")


def test_a_folder_has_no_revisions(checkpoint):
    with pytest.raises(UnknownRevision, match="is a folder, which has no revision 'step1'"):
        load(checkpoint, "step1")


def test_a_type_that_is_none(checkpoint):
    with pytest.raises(ValueError, match=r"dtype must be one of float32, .*, not 'int8'"):
        load(checkpoint, dtype="int8")


def cut_short(folder):
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])


def of_zeros(folder):
    (folder / WEIGHTS).write_bytes(bytes((folder / WEIGHTS).stat().st_size))


def without(folder):
    (folder / WEIGHTS).unlink()


def one_missing(folder):
    weights = safetensors.torch.load_file(folder / WEIGHTS)
    del weights["gpt_neox.layers.1.mlp.dense_h_to_4h.weight"]
    safetensors.torch.save_file(weights, folder / WEIGHTS, {"format": "pt"})


def of_another_shape(folder):
    weights = safetensors.torch.load_file(folder / WEIGHTS)
    weights["gpt_neox.embed_in.weight"] = torch.zeros(7, 16)
    safetensors.torch.save_file(weights, folder / WEIGHTS, {"format": "pt"})


def no_config(folder):
    (folder / "config.json").unlink()


def broken_config(folder):
    (folder / "config.json").write_text('{"model_type": ')


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (cut_short, "weights cannot be read: SafetensorError"),
        (of_zeros, "weights cannot be read: SafetensorError"),
        (without, "weights cannot be read: OSError"),
        (one_missing, r"weights are missing: gpt_neox.layers.1.mlp.dense_h_to_4h.weight$"),
        (of_another_shape, "weights cannot be read: RuntimeError"),
        (no_config, "no config.json, nor adapter_config.json: not a checkpoint"),
        (broken_config, "config.json cannot be read"),
    ],
)
def test_a_corrupt_checkpoint(copy, harm, message):
    harm(copy)
    with pytest.raises(CorruptCheckpoint, match=f"copy.*{message}"):
        load(copy)


def test_models_of_another_kind(copy):
    (copy / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(LoadError, match=r"copy is no causal language model .*'t5'"):
        load(copy)


def test_without_transformers(checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(NotInstalled, match=r'pip install "geomfast\[hf\]"'):
        load(checkpoint)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(NotInstalled, match=r'pip install "geomfast\[hf\]"'):
        load("owner/name")


def test_importing_does_not_load_the_library():
    for path in Path(hub.__file__).parent.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = [x.name for x in getattr(node, "names", [])]
            of = {x.split(".")[0] for x in (*names, getattr(node, "module", "") or "")}
            assert not {"transformers", "huggingface_hub", "datasets"} & of, path


# The hub


def refusing(kind, monkeypatch):
    """A hub that answers every download with an error of this kind."""

    class Response:
        status_code, headers, request, text = 404, {}, None, ""

    def download(*arguments, **options):
        raise (
            kind("refused", response=Response())
            if issubclass(kind, huggingface_hub.errors.HfHubHTTPError)
            else kind("refused")
        )

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)


@pytest.mark.parametrize(
    ("kind", "expected", "message"),
    [
        ("RevisionNotFoundError", UnknownRevision, "them/model has no revision 'step7' on the hub"),
        ("RepositoryNotFoundError", UnknownModel, "'them/model' is neither a folder nor a model"),
        ("GatedRepoError", UnknownModel, "them/model is not open to all: accept its terms"),
        ("HFValidationError", UnknownModel, "'them/model' is neither"),
        ("LocalEntryNotFoundError", NoNetwork, "them/model at revision step7 .*: refused"),
        ("OfflineModeIsEnabled", NoNetwork, "cannot fetch them/model at revision step7"),
        ("HfHubHTTPError", NoNetwork, "cannot fetch them/model at revision step7"),
    ],
)
def test_what_the_hub_refuses(kind, expected, message, monkeypatch):
    refusing(getattr(huggingface_hub.errors, kind), monkeypatch)
    with pytest.raises(expected, match=message):
        load("them/model", "step7")


def test_what_is_fetched(checkpoint, copy, tmp_path, monkeypatch):
    """Safetensors, and torch's files only where there are none."""
    asked = []

    def download(name, *, revision, cache_dir, allow_patterns, ignore_patterns):
        asked.append((name, revision, cache_dir, allow_patterns[-1]))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    folder = checkpoint
    lm = load("them/model", "step7", cache_dir=tmp_path)
    assert (lm.name, lm.revision) == ("them/model", "step7")
    assert asked == [("them/model", "step7", tmp_path, "*.safetensors")]
    folder = copy
    without(folder)
    assert fetch("them/model") == copy
    assert [patterns for *_, patterns in asked[1:]] == ["*.safetensors", "*.bin"]
