"""Loss functions of language models, as geomfast takes them: one value per sample.

A batch is a tensor of token ids (N, T), or a mapping as Hugging Face models take it: `input_ids`
(N, T) and what else the model wants, with `attention_mask` and `labels` where there are any.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Labels with this value do not count, as in torch and in transformers.
IGNORED = -100


def next_token(model: nn.Module, batch: Any) -> Tensor:
    """Cross-entropy of every sample's next tokens.

    The label of position t is token t + 1 (of `labels`, where the batch has them). Padding and
    labels of -100 do not count.

    Args:
        model: a module that returns logits (N, T, V), or an object or tuple that has them as
            `.logits` or first.
        batch: token ids (N, T) or a Hugging Face style mapping.

    Returns:
        (N,) mean over the sample's counted tokens, nats per token; 0 for a sample without any.

    Raises:
        TypeError: the batch is neither of the two.
        ValueError: fewer than two tokens, or logits of another shape.
    """
    labels = _labels(batch)
    logits = _logits(model, batch, labels)
    losses = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none", ignore_index=IGNORED)
    return losses.sum(1) / (labels != IGNORED).sum(1).clamp_min(1)


def next_tokens(model: nn.Module, batch: Any) -> Tensor:
    """Cross-entropy of every next token, not averaged: for what may have one loss a token.

    Such as `observe` of `geomfast.llc`, with `tokens=True` of `geomfast.influence` and
    `geomfast.susceptibility`. `next_token` is the mean of these over a sample's counted tokens.

    Args:
        model, batch: as for `next_token`.

    Returns:
        (N, T - 1) nats: at t the loss of predicting token t + 1; NaN where that does not count.

    Raises:
        TypeError, ValueError: as `next_token`.
    """
    labels = _labels(batch)
    logits = _logits(model, batch, labels)
    losses = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none", ignore_index=IGNORED)
    return losses.masked_fill(labels == IGNORED, torch.nan)


def sample_labels(model: nn.Module, batch: Any, *, seed: int = 0) -> dict[str, Any]:
    """The batch with its labels drawn from the model's own predictions.

    With these labels `fisher_effective_rank(model, next_token, ...)` estimates the rank of the true
    Fisher matrix (Kunstner et al. 2019, arXiv:1905.12558), with one draw per position; with labels
    from the data it is the rank of the empirical one. Every prediction sees the tokens of the data
    before it. Padding and ignored labels of the batch stay ignored.

    Args:
        model: a language model, as `next_token` takes it.
        batch: token ids (N, T) or a mapping, as `next_token` takes it.
        seed: seed of the draws.

    Returns:
        A mapping with `labels` (N, T); of token ids it becomes {"input_ids": ids, "labels": ...}.
    """
    labels = _labels(batch)
    with torch.no_grad():
        probabilities = _logits(model, batch, labels).softmax(-1)
    generator = torch.Generator().manual_seed(seed)
    # Inverse transform of uniform numbers made on the CPU: the same on every device.
    uniform = torch.rand(labels.shape, generator=generator, dtype=torch.float64, device="cpu")
    steps = probabilities.double().cumsum(-1)
    wanted = uniform.to(steps.device)[..., None] * steps[..., -1:]
    drawn = torch.searchsorted(steps, wanted, right=True)[..., 0]
    drawn = drawn.clamp_max(steps.shape[-1] - 1)
    drawn = torch.where(labels == IGNORED, IGNORED, drawn)
    # As in the data, a label stands where its token would: one to the right of its prediction.
    drawn = F.pad(drawn, (1, 0), value=IGNORED)
    return {**(batch if isinstance(batch, Mapping) else {"input_ids": batch}), "labels": drawn}


def _labels(batch: Any) -> Tensor:
    """(N, T - 1): what every position but the last should predict, -100 where it does not count."""
    if isinstance(batch, Tensor):
        tokens, labels, mask = batch, None, None
    elif isinstance(batch, Mapping) and isinstance(batch.get("input_ids"), Tensor):
        tokens, labels = batch["input_ids"], batch.get("labels")
        mask = batch.get("attention_mask")
    else:
        raise TypeError(
            f"batch must be token ids or a mapping with input_ids, not {type(batch).__name__}"
        )
    if tokens.is_floating_point() or tokens.is_complex():
        raise TypeError(f"token ids must be integers, not {tokens.dtype}")
    if tokens.dim() != 2 or tokens.shape[1] < 2:
        raise ValueError(f"token ids must have shape (N, T), T >= 2, not {tuple(tokens.shape)}")
    labels = tokens if labels is None else labels
    if labels.shape != tokens.shape:
        raise ValueError(
            f"labels of shape {tuple(labels.shape)} for token ids of {tuple(tokens.shape)}"
        )
    labels = labels[:, 1:]
    if mask is None:
        return labels
    # Nor does what padding on the left predicts.
    return labels.masked_fill((mask[:, 1:] == 0) | (mask[:, :-1] == 0), IGNORED)


def _logits(model: nn.Module, batch: Any, labels: Tensor) -> Tensor:
    """(N, T - 1, V): the predictions that labels belong to."""
    if isinstance(model, type) or not callable(model):
        raise TypeError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    if isinstance(batch, Mapping):
        # With labels a model would compute a reduced loss of its own.
        out = model(**{name: value for name, value in batch.items() if name != "labels"})
    else:
        out = model(batch)
    logits = getattr(out, "logits", out[0] if isinstance(out, tuple) else out)
    if not isinstance(logits, Tensor):
        raise TypeError(f"model must return logits (N, T, V), not {type(logits).__name__}")
    samples, length = labels.shape
    if logits.dim() != 3 or logits.shape[:2] != (samples, length + 1):
        raise ValueError(
            f"logits must have shape ({samples}, {length + 1}, V), not {tuple(logits.shape)}"
        )
    return logits[:, :-1]
