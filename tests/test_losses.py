"""Losses per sample, and labels drawn from the model."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import geomfast as gf
from geomfast.losses import next_token, next_tokens, sample_labels
from geomfast.testbed.models.gpt import GPT
from geomfast.testbed.models.scales import Scale

N, T, V = 5, 7, 11


class Named(nn.Module):
    """Takes and returns what a Hugging Face model does."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = GPT(Scale("tiny", 1, 16, 2, 1e-3, V, T), 0)

    def forward(self, input_ids, attention_mask=None):
        return type("Output", (), {"logits": self.inner(input_ids)})()


@pytest.fixture
def model() -> Named:
    return Named()


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(0, V, (N, T), generator=torch.Generator().manual_seed(1))


def test_mean_over_the_tokens_of_each_sample(model, tokens):
    logits = model(tokens).logits
    one_by_one = [F.cross_entropy(logits[i, :-1], tokens[i, 1:]) for i in range(N)]
    found = next_token(model, {"input_ids": tokens})
    torch.testing.assert_close(found, torch.stack(one_by_one))
    torch.testing.assert_close(next_token(model.inner, tokens), found)
    torch.testing.assert_close(next_token(lambda x: (model.inner(x), None), tokens), found)


def test_losses_of_tokens_are_what_the_mean_is_of(model, tokens):
    mask = torch.ones_like(tokens)
    mask[0, 4:] = 0
    batch = {"input_ids": tokens, "attention_mask": mask}
    found = next_tokens(model, batch)
    assert found.shape == (N, T - 1) and found[0, 3:].isnan().all() and found.isnan().sum() == 3
    torch.testing.assert_close(found.nanmean(1), next_token(model, batch))
    logits = model(tokens).logits
    torch.testing.assert_close(found[2, 4], F.cross_entropy(logits[2, 4], tokens[2, 5]))


def test_padding_and_ignored_labels_do_not_count(model, tokens):
    mask = torch.ones_like(tokens)
    mask[0, 4:] = 0
    mask[1, 1:] = 0
    found = next_token(model, {"input_ids": tokens, "attention_mask": mask})
    expected = F.cross_entropy(model(tokens).logits[0, :3], tokens[0, 1:4])
    torch.testing.assert_close(found[0], expected)
    assert found[1] == 0
    left = {"input_ids": tokens, "attention_mask": (torch.arange(T) >= 3).long().expand(N, T)}
    expected = F.cross_entropy(model(tokens).logits[0, 3:-1], tokens[0, 4:])
    torch.testing.assert_close(next_token(model, left)[0], expected)
    labels = tokens.masked_fill(mask == 0, -100)
    torch.testing.assert_close(next_token(model, {"input_ids": tokens, "labels": labels}), found)


def test_labels_are_drawn_from_the_predictions(model):
    tokens = torch.zeros(1, 3, dtype=torch.long).expand(20_000, 3)
    with torch.no_grad():
        model.inner.tokens.weight.mul_(10.0)  # far from uniform
    drawn = sample_labels(model, {"input_ids": tokens})["labels"]
    assert (drawn[:, 0] == -100).all() and drawn[:, 1:].min() >= 0
    chances = model(tokens[:1]).logits[0].softmax(-1)
    for place in range(2):
        seen = torch.bincount(drawn[:, place + 1], minlength=V) / len(drawn)
        torch.testing.assert_close(seen, chances[place].detach(), rtol=0.0, atol=0.015)


def test_draws_follow_the_seed_and_leave_the_rest_alone(model, tokens):
    state = torch.random.get_rng_state()
    mask = torch.ones_like(tokens)
    mask[2, 3:] = 0
    batch = {"input_ids": tokens, "attention_mask": mask}
    first, again = sample_labels(model, batch), sample_labels(model, batch)
    assert torch.equal(first["labels"], again["labels"])
    assert not torch.equal(first["labels"], sample_labels(model, batch, seed=1)["labels"])
    assert (first["labels"][2, 3:] == -100).all()
    assert torch.equal(torch.random.get_rng_state(), state) and "labels" not in batch
    assert torch.equal(sample_labels(model.inner, tokens)["input_ids"], tokens)


def test_true_fisher_of_softmax_regression():
    """Closed form: over draws of y, E g g^T = (diag(p) - p p^T) x x^T for one sample."""
    torch.manual_seed(0)
    table = nn.Embedding(2, 3).double()  # logits that depend on the token alone
    tokens = torch.zeros(40_000, 2, dtype=torch.long)
    drawn = sample_labels(table, tokens)
    p = table.weight[0].softmax(0).detach()
    rows = p - F.one_hot(drawn["labels"][:, 1], 3)  # each sample's gradient in the table's row 0
    exact = torch.diag(p) - p[:, None] * p
    torch.testing.assert_close(rows.T @ rows / len(rows), exact, rtol=0.0, atol=0.01)
    few = {name: value[:60] for name, value in drawn.items()}
    values = torch.linalg.eigvalsh(rows[:60].T @ rows[:60]).clamp_min(0.0)
    expected = gf.effective_rank(values).item()

    def loss(model, batch):
        return next_token(lambda input_ids: model(input_ids), batch)

    assert gf.fisher_effective_rank(table, loss, few) == pytest.approx(expected, rel=2e-5)


def test_bad_input(model, tokens):
    with pytest.raises(TypeError, match="mapping with input_ids, not list"):
        next_token(model, [tokens])
    with pytest.raises(ValueError, match=r"T >= 2, not \(5, 1\)"):
        next_token(model, tokens[:, :1])
    with pytest.raises(ValueError, match=r"labels of shape \(5, 6\)"):
        next_token(model, {"input_ids": tokens, "labels": tokens[:, 1:]})
    with pytest.raises(ValueError, match=r"logits must have shape \(5, 7, V\), not \(5, 11\)"):
        next_token(lambda x: model.inner(x)[:, 0], tokens)
