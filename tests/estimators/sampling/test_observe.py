"""Other data's losses at the draws of a run, and losses of single samples that are kept."""

import json
import math

import pyarrow.parquet
import pytest
import torch

import geomfast as gf
from geomfast.estimators.batches import Batches
from geomfast.estimators.sampling import loss_files
from geomfast.estimators.sampling.kept import SampledLosses
from geomfast.estimators.sampling.observed import NO_MINIMUM
from geomfast.files import FileError
from geomfast.losses import next_token, next_tokens
from geomfast.testbed.models.gpt import GPT
from geomfast.testbed.models.scales import Scale
from tests import cases
from tests.estimators.sampling.cases import Quadratic, noise, output

CURVATURE = torch.linspace(0.3, 2.0, 10)
DATA = noise(24, CURVATURE)
CHAINS = {
    "lr": 0.05, "nbeta": 10.0, "localization": 1.0, "momentum": 0.3, "chains": 3, "draws": 30,
    "burn_in": 5,
}  # fmt: skip


def sampled(data=DATA, loss_fn=output, **options):
    return gf.llc(Quadratic(CURVATURE), loss_fn, data, **CHAINS | options)


def doubled(model, batch):
    """A loss of each of three tokens, the last of which is none."""
    own = model(batch)
    return torch.stack([own, 3 * own, own * math.nan], 1)


def same(a, b):
    assert torch.equal(a.loss_trace, b.loss_trace) and torch.equal(a.distance, b.distance)
    assert a.mean == b.mean and a.stderr == b.stderr and a.verdict == b.verdict


@pytest.mark.parametrize("batch_size", [None, 7])
@pytest.mark.parametrize("stacked", [True, False])
def test_observing_changes_nothing_of_the_chains(batch_size, stacked, tmp_path):
    options = {"batch_size": batch_size, "stacked": stacked}
    plain = sampled(**options)
    assert not plain.observed and plain.losses is None
    for keep in (False, True, tmp_path / "kept"):
        watched = sampled(
            observe={"half": DATA[:9], "tokens": (doubled, DATA[:2])}, keep_losses=keep, **options
        )
        same(plain, watched)


def test_losses_are_those_of_the_draws():
    """Of the data they are the run's own trace; of others what the kept draws' weights give."""
    found = sampled(keep_losses=True, observe={"other": DATA[4:9] + 1.0, "own": DATA})
    kept = found.losses.read()
    assert kept.shape == (3, 30, 24) and found.losses.names == ("data", "other", "own")
    torch.testing.assert_close(kept.mean(2), found.loss_trace[:, 5:])
    assert torch.equal(found.losses.read("own"), kept)
    # A shift of x adds the sum of the weights, which two losses tell.
    weights = (kept - kept.mean(2, keepdim=True)) @ torch.linalg.pinv(DATA.double().T)
    expected = kept[:, :, 4:9] + weights.sum(2, keepdim=True)
    torch.testing.assert_close(found.losses.read("other"), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(found.losses.initial_of(), torch.zeros(24, dtype=torch.float64))


def test_coefficients_of_parts_add_up():
    """Of data sets that share the chains' data, weighted by their size; with the run's rules."""
    batches = Batches([DATA[9:11], DATA[11:]])
    found = sampled(observe={"first": DATA[:9], "rest": batches, "whole": DATA}, draws=200)
    first, rest, whole = (found.observed[name] for name in ("first", "rest", "whole"))
    assert (9 * first.mean + 15 * rest.mean) / 24 == pytest.approx(found.mean, rel=1e-6)
    assert whole.mean == pytest.approx(found.mean, rel=1e-6)
    assert whole.stderr == pytest.approx(found.stderr, rel=1e-4)
    assert whole.rhat == pytest.approx(found.rhat, rel=1e-4)
    assert whole.ess == pytest.approx(found.ess, rel=1e-4)
    assert whole.localization_effect == pytest.approx(found.localization_effect, abs=0.05)
    assert whole.verdict.split(":")[0] == found.verdict.split(":")[0]
    assert whole.mean_loss == pytest.approx(found.initial_loss + found.mean / 10, abs=1e-6)
    torch.testing.assert_close(whole.per_chain, found.per_chain)


def test_a_coefficient_is_the_closed_form():
    """Of samples with another curvature: 1/2 sum nbeta k / a, a of the chains' own."""
    other = torch.linspace(2.0, 0.1, 10)

    def loss(model, batch):
        return 0.5 * (other * model.weight.square()).sum() + 0.0 * batch[:, 0]

    found = sampled(observe={"other": (loss, DATA[:2])}, chains=16, draws=800)
    a = 10.0 * CURVATURE.double() + 1.0
    exact = 0.5 * (10.0 * other.double() / a).sum().item()
    one = found.observed["other"]
    assert abs(one.mean - exact) < 3 * one.stderr and 3 * one.stderr < 0.05 * exact
    effect = (other.double() / a**2).sum() / (other.double() / a).sum()
    assert abs(one.localization_effect - effect) < 3 * one.localization_effect_stderr


def test_data_that_the_weights_are_no_minimum_of():
    slope = torch.full((1, 10), 3.0)
    found = sampled(data=DATA + 1.0, observe={"away": -slope, "along": slope}, draws=200)
    assert found.observed["along"].verdict.startswith(NO_MINIMUM)
    assert found.observed["along"].mean < 0 < found.observed["away"].mean


def test_a_step_that_is_too_large_is_so_for_all():
    found = sampled(observe={"half": DATA[:12]}, lr=0.12, momentum=None, draws=400)
    assert found.verdict.startswith("step too large")
    assert found.observed["half"].verdict.startswith("step too large")


def test_tokens(tmp_path):
    """A sample's loss is the mean of its tokens'; a place that holds none stays out."""
    found = sampled(observe={"tokens": (doubled, DATA[:4])}, keep_losses=tmp_path / "x")
    kept, own = found.losses, found.losses.read()[:, :, :4]
    each = kept.read("tokens", tokens=True)
    assert kept.shapes["tokens"] == (3, 30, 4, 3) and each[..., 2].isnan().all()
    torch.testing.assert_close(each[..., :2], torch.stack([own, 3 * own], -1))
    torch.testing.assert_close(kept.read("tokens"), 2 * own)
    expected = 2 * own.mean(2)
    torch.testing.assert_close(found.observed["tokens"].loss_trace, expected)


def test_of_a_language_model():
    scale = Scale("tiny", 1, 8, 2, 1e-3, 7, 6)
    model, ids = GPT(scale, 0), torch.randint(0, 7, (5, 6), generator=cases.generator())
    found = gf.llc(
        model, next_token, ids, lr=1e-5, chains=2, draws=4, burn_in=1, keep_losses=True,
        observe={"tokens": (next_tokens, ids)},
    )  # fmt: skip
    torch.testing.assert_close(found.losses.read(), found.losses.read("tokens"))
    assert found.losses.read("tokens", tokens=True).shape == (2, 4, 5, 5)


def test_read_back_from_a_folder(tmp_path, monkeypatch):
    """What is written is what memory would have kept, in however small row groups."""
    observe = {"tokens": (doubled, DATA[:4]), "a/b \N{SNOWMAN}": DATA[:3]}
    memory = sampled(observe=observe, keep_losses=True).losses
    monkeypatch.setattr(loss_files, "BUFFERED", 200)
    path = tmp_path / "deep" / "kept"
    for stacked in (True, False):
        written = sampled(observe=observe, keep_losses=path / str(stacked), stacked=stacked).losses
        read = gf.load_losses(str(path / str(stacked)))
        assert read.shapes == written.shapes == memory.shapes
        assert read.nbeta == 10.0 and read.samples == 24 and not read.diverged.any()
        for name in memory.names:
            torch.testing.assert_close(
                read.read(name, tokens=True),
                memory.read(name, tokens=True),
                equal_nan=True,
                rtol=1e-4,
                atol=1e-5,
            )
            assert torch.equal(read.initial[name].nan_to_num(), memory.initial[name].nan_to_num())
    file = pyarrow.parquet.ParquetFile(path / "True" / "losses-0.parquet")
    assert file.metadata.num_row_groups > 10 and file.metadata.num_rows == 3 * 30 + 1
    table = file.read().to_pandas()
    assert list(table.columns) == ["chain", "draw", "losses"]
    row = table[(table.chain == 2) & (table.draw == 7)].losses.item()
    torch.testing.assert_close(torch.tensor(row).double(), memory.read()[2, 7])


def test_chains_that_run_on_keep_all_draws(tmp_path):
    options = {"stderr": 0.3, "draws": 20, "max_draws": 200}
    found = sampled(keep_losses=tmp_path / "x", observe={"half": DATA[:5]}, **options)
    draws = found.loss_trace.shape[1] - 5
    assert draws > 20 and found.losses.shapes["data"] == (3, draws, 24)
    torch.testing.assert_close(found.losses.read().mean(2), found.loss_trace[:, 5:])
    assert found.observed["half"].loss_trace.shape == (3, draws)


@pytest.mark.parametrize("draws", [20, 80])
def test_an_automatic_step_observes_the_chains_that_count(draws, tmp_path):
    options = {"lr": "auto", "momentum": None, "draws": draws}
    found = sampled(keep_losses=tmp_path / "x", **options)
    torch.testing.assert_close(found.losses.read().mean(2), found.loss_trace[:, -draws:])


def test_a_step_that_is_tried_again_is_observed_once(tmp_path):
    """Minibatches that add much make the first step too large."""
    options = {"lr": "auto", "momentum": None, "draws": 20, "batch_size": 2, "nbeta": 1000.0}
    plain = sampled(**options)
    assert plain.lr < 0.5 / (1000.0 * CURVATURE.max().item() + 1.0)
    found = sampled(keep_losses=tmp_path / "x", observe={"b": DATA[:3]}, **options)
    assert found.losses.shapes["b"] == (3, 20, 3)


def test_a_chain_that_diverges_is_nan_from_there():
    def steep(model, batch):
        w = model.weight
        return model(batch) + torch.where(w[0] > 0.75, math.inf, 0.0)

    found = sampled(loss_fn=steep, keep_losses=True, observe={"b": (output, DATA[:3])}, chains=6)
    lost = found.diverged
    assert 0 < lost.sum() < 6
    kept = found.losses
    assert torch.equal(kept.diverged, lost)
    for name in kept.names:
        assert torch.equal(kept.read(name).isnan().flatten(1).any(1), lost)
        assert kept.stayed(name).shape[0] == 6 - lost.sum()
    assert found.observed["b"].verdict.startswith(f"diverged: {int(lost.sum())} of 6 chains")
    assert torch.equal(found.observed["b"].per_chain.isnan(), lost)
    gf.influence_from_losses(kept, queries="b")


def test_losses_of_other_data_that_are_not_finite():
    """The chains are fine: only this data's answer leaves out the chain, and says so."""

    def steep(model, batch):
        return model(batch) + torch.where(model.weight[0] > 0.75, math.inf, 0.0)

    found = sampled(keep_losses=True, observe={"b": (steep, DATA[:3])}, chains=6)
    assert not found.diverged.any() and 0 < found.observed["b"].diverged.sum() < 6
    assert found.observed["b"].verdict.startswith("diverged: ")
    with pytest.raises(ValueError, match=r"losses of 'b' at the draws of chain \d are not finite"):
        gf.influence_from_losses(found.losses, queries="b")


def test_a_model_of_fewer_bits_and_one_that_keeps_state():
    """Observed as it is sampled: in float32, from one state, and left as it was."""

    class Counting(Quadratic):
        def __init__(self):
            super().__init__(CURVATURE)
            self.register_buffer("calls", torch.zeros(()))
            self.seen = []

        def forward(self, x):
            self.calls += 1
            self.seen.append(len(x))
            return super().forward(x) + self.calls

    model = Counting()
    state = torch.random.get_rng_state()
    found = gf.llc(
        model, output, DATA, observe={"own": DATA}, keep_losses=True, **CHAINS | {"chains": 1}
    )
    assert torch.equal(found.losses.read("own"), found.losses.read())
    torch.testing.assert_close(found.losses.read().mean(2), found.loss_trace[:, 5:])
    assert not model.calls and not model.seen and model.weight.grad is None
    assert torch.equal(torch.random.get_rng_state(), state)
    half = Quadratic(CURVATURE).bfloat16()
    found = gf.llc(
        half, output, DATA.bfloat16(), observe={"own": DATA.bfloat16()}, keep_losses=True, **CHAINS
    )
    assert torch.equal(found.losses.read("own"), found.losses.read())
    torch.testing.assert_close(found.losses.read().mean(2), found.loss_trace[:, 5:])
    assert half.weight.dtype == torch.bfloat16


def random(model, batch):
    return model(batch) + torch.rand(len(batch))


def coupled(model, batch):
    return model(batch) + batch.mean()


@pytest.mark.parametrize(
    ("observe", "error", "message"),
    [
        ([DATA], TypeError, "observe must map names to data, or to .* not be list"),
        ({3: DATA}, TypeError, "observe: a name must be text, not 3"),
        ({"data": DATA}, ValueError, "observe: 'data' is the name of the chains' own data"),
        ({"a": 3}, ValueError, "observe: 'a': batch holds no tensor: int"),
        ({"a": (random, DATA)}, ValueError, "the losses are random"),
        ({"a": (coupled, DATA)}, ValueError, "depends on the other samples"),
        (
            {"a": (lambda m, b: m(b).mean(), DATA)},
            ValueError,
            r"observe: losses of 'a' must have shape \(24,\), or \(24, tokens\), not \(\)",
        ),
        (
            {"a": (lambda m, b: m(b) / 0.0, DATA)},
            ValueError,
            "observe: losses of 'a': that of sample 0 is not finite",
        ),
        (
            {"a": (lambda m, b: m(b)[:, None].expand(-1, len(b)), [DATA[:5], DATA[5:]])},
            ValueError,
            "pad to one length",
        ),
        ({"a": (lambda m, b: len(b), DATA)}, TypeError, "must be a floating-point tensor, not int"),
    ],
)  # fmt: skip
def test_what_is_not_observed(observe, error, message):
    with pytest.raises(error, match=message):
        sampled(observe=observe)


def test_where_losses_are_not_kept(tmp_path):
    with pytest.raises(TypeError, match="keep_losses must be True, or a path, not 3"):
        sampled(keep_losses=3)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").write_text("mine")
    with pytest.raises(FileError, match="holds something already: name a new folder"):
        sampled(keep_losses=tmp_path / "full")
    # What a failed run has begun is gone.
    with pytest.raises(ValueError, match="all 3 chains have diverged"):
        sampled(keep_losses=tmp_path / "new", lr=3.0, momentum=None)
    assert not (tmp_path / "new").exists()
    with pytest.raises(FileError, match=r"new holds no kept losses, .* losses.json is missing"):
        gf.load_losses(tmp_path / "new")
    with pytest.raises(TypeError, match="path must be that of a folder, not 3"):
        gf.load_losses(3)


def test_a_folder_that_was_changed_is_refused(tmp_path):
    path = tmp_path / "kept"
    sampled(keep_losses=path)
    file, index = path / "losses-0.parquet", path / "losses.json"
    whole, said = file.read_bytes(), index.read_text()
    for at in range(10, len(whole), len(whole) // 40):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        try:
            losses = gf.load_losses(path).read()
        except FileError:
            continue
        file.write_bytes(whole)  # a byte that decides nothing
        torch.testing.assert_close(losses, gf.load_losses(path).read())
    file.write_bytes(whole)
    content = json.loads(said)
    content["draws"] = 31
    index.write_text(json.dumps(content))
    with pytest.raises(FileError, match="has changed since geomfast wrote it"):
        gf.load_losses(path)


def test_losses_of_another_sampler():
    x = cases.normal(2, 5, 3, dtype=torch.float64)
    found = SampledLosses.of({"data": x, "b": x[..., :2]}, nbeta=3.0)
    assert torch.equal(found.read(), x) and found.samples == 3 and found.names == ("data", "b")
    with pytest.raises(ValueError, match="losses must have 'data'"):
        SampledLosses.of({"b": x}, nbeta=3.0)
    with pytest.raises(ValueError, match="must be of the same chains C and draws D"):
        SampledLosses.of({"data": x, "b": x[:, 1:]}, nbeta=3.0)
    with pytest.raises(ValueError, match=r"losses must be \(C, D, N\) or \(C, D, N, T\)"):
        SampledLosses.of({"data": x[0]}, nbeta=3.0)
    with pytest.raises(TypeError, match="losses of 'data' must be a floating-point tensor"):
        SampledLosses.of({"data": x.long()}, nbeta=3.0)
    with pytest.raises(ValueError, match="initial losses of 'data' must be"):
        SampledLosses.of({"data": x}, nbeta=3.0, initial={"data": x[0, 0, :2]})
