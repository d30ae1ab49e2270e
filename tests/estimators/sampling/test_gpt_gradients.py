"""Gradients of geomfast's GPT at chains' weights, by hand, against autograd."""

import pytest
import torch
from torch import nn

import geomfast as gf
from geomfast.estimators.behaviour import AnswersFrom, PaddedAnswers
from geomfast.estimators.curvature.gpt_loss import NotPlain
from geomfast.estimators.sampling import chains
from geomfast.estimators.sampling.gpt_gradients import GptGradients, agrees
from geomfast.estimators.sampling.gradients import ChainGradients
from geomfast.testbed.models.gpt import GPT
from geomfast.testbed.models.scales import Scale
from geomfast.testbed.training.mixture import IGNORE

SMALL = Scale("d=16", 2, 16, 2, 1e-3, 24, 40)
TOKENS = torch.randint(0, 24, (10, 9), generator=torch.Generator().manual_seed(0))


answers = AnswersFrom(5)


def padded():
    targets = TOKENS[:, 1:].clone()
    targets[:5, :3], targets[:5, 6:], targets[5:, :6] = IGNORE, IGNORE, IGNORE
    return {"inputs": TOKENS[:, :-1], "targets": targets}


of_padded = PaddedAnswers()


def made(scale=SMALL, count=3):
    model = GPT(scale, 1)
    parameters = dict(model.named_parameters())
    center = torch.cat([p.detach().flatten() for p in parameters.values()])
    noise = torch.randn(count, len(center), generator=torch.Generator().manual_seed(1))
    return model, parameters, center.repeat(count, 1) + 0.1 * noise


def both(model, parameters, weights, loss, calls):
    """Losses and gradients of both after some calls of `add`."""
    found = []
    for make in (GptGradients, ChainGradients):
        gradients = torch.full_like(weights, torch.nan)
        one = make(model, loss, parameters, weights, gradients)
        losses = [one.add(*call) for call in calls]
        found.append((torch.cat(losses, 1), gradients))
    return found


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("shared", [True, False])
def test_losses_and_gradients_are_those_of_autograd(count, shared):
    model, parameters, weights = made(count=count)
    own = torch.stack([TOKENS.roll(i, 0)[:6] for i in range(count)])
    batch = TOKENS[:6] if shared else own
    calls = [(batch, 6, shared, 0.7, True)] * 2 + [(batch, 6, shared, 0.3, False)]
    (losses, gradients), (plain, expected) = both(model, parameters, weights, answers, calls)
    torch.testing.assert_close(losses, plain, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("positions", ["none", "rotary", "alibi"])
def test_every_encoding_of_positions(positions):
    model, parameters, weights = made(Scale("d=16", 2, 16, 2, 1e-3, 24, 40, positions=positions))
    (a, g), (b, h) = both(model, parameters, weights, answers, [(TOKENS, 10, True, 1.0, True)])
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(g, h, rtol=1e-4, atol=1e-6)


def test_positions_that_a_later_batch_reads_are_found():
    model, parameters, weights = made()
    whole = padded()
    parts = [{name: x[i : i + 5] for name, x in whole.items()} for i in (0, 5, 0)]
    calls = [(part, 5, True, 0.5, i == 0) for i, part in enumerate(parts)]
    (a, g), (b, h) = both(model, parameters, weights, of_padded, calls)
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(g, h, rtol=1e-4, atol=1e-6)


def test_a_loss_that_is_not_finite_is_said_of_its_chain_alone():
    model, parameters, weights = made()
    weights[1] = torch.nan
    one = GptGradients(model, answers, parameters, weights, torch.empty_like(weights))
    for _ in range(2):
        losses = one.add(TOKENS, 10, True, 1.0, True)
        assert losses[1].isnan().all() and losses[[0, 2]].isfinite().all()


def test_what_is_no_plain_gpt_goes_by_autograd():
    model, parameters, weights = made()
    gradients = torch.empty_like(weights)
    some = {name: p for name, p in parameters.items() if "norm" in name}
    with pytest.raises(NotPlain, match="not all parameters"):
        GptGradients(model, answers, some, weights, gradients)
    with pytest.raises(NotPlain, match="not geomfast's GPT"):
        GptGradients(model, answers, parameters, weights.double(), gradients)

    assert agrees(model, answers, parameters, TOKENS[:4])
    # What a function of one's own reads, of logits or of weights, is not known.
    own = lambda model, tokens: answers(model, tokens)  # noqa: E731
    assert not agrees(model, own, parameters, TOKENS[:4])
    with pytest.raises(NotPlain, match="not a loss of answers"):
        GptGradients(model, own, parameters, weights, gradients)
    padding, model.tokens.padding_idx = model.tokens.padding_idx, 3
    assert not agrees(model, answers, parameters, TOKENS[:4])
    model.tokens.padding_idx = padding
    handle = model.blocks[0].register_forward_hook(lambda *_: None)
    assert not agrees(model, answers, parameters, TOKENS[:4])
    handle.remove()

    class Other(GPT):
        def forward(self, tokens, collect=None, starts=None):
            return 2.0 * super().forward(tokens)

    assert not agrees(Other(SMALL, 1), answers, parameters, TOKENS[:4])
    tied, normed = GPT(SMALL, 1), GPT(SMALL, 1)
    tied.blocks[1].mlp_in.weight = tied.blocks[0].mlp_in.weight
    nn.utils.parametrizations.weight_norm(normed.blocks[0].mlp_in)
    other_eps = GPT(SMALL, 1)
    other_eps.blocks[0].norm_1.eps = 2e-5
    for other in (tied, normed, other_eps):
        assert not agrees(other, answers, dict(other.named_parameters()), TOKENS[:4])


def test_the_coefficient_is_that_of_autograd(monkeypatch):
    model = GPT(SMALL, 0)
    data = TOKENS
    options = {"lr": 1e-3, "localization": 10.0, "draws": 12, "chains": 2, "seed": 3}
    options |= {"nbeta": 5.0, "batch_size": 4, "stacked": True}
    by_hand = gf.llc(model, answers, data, **options)
    monkeypatch.setattr(chains, "by_hand", lambda sampling: False)
    plain = gf.llc(model, answers, data, **options)
    assert by_hand.mean == pytest.approx(plain.mean, rel=1e-4)
