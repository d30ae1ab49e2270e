"""The usual way to a Gram matrix of per-sample gradients: store all N x P, then multiply."""

import torch
import torch.nn.functional as F
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

# So many columns of the gradients are multiplied at a time: a float64 copy of all would triple the
# memory, and float32 sums stay short.
COLUMNS = 1 << 15


def next_token(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """(N,) losses."""
    logits = model(tokens)[:, :-1].transpose(1, 2)
    return F.cross_entropy(logits, tokens[:, 1:], reduction="none").sum(1)


def by_vmap(model: torch.nn.Module, tokens: torch.Tensor) -> list[torch.Tensor]:
    """(N, ...) gradients of every parameter by vmap(grad), with attention that vmap can batch."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters: dict[str, torch.Tensor], row: torch.Tensor) -> torch.Tensor:
        logits = functional_call(model, parameters, (row[None],))[0, :-1]
        return F.cross_entropy(logits, row[1:], reduction="sum")

    with sdpa_kernel(SDPBackend.MATH):
        return list(vmap(grad(loss), in_dims=(None, 0))(parameters, tokens).values())


def by_loop(model: torch.nn.Module, tokens: torch.Tensor) -> list[torch.Tensor]:
    """The same by one backward pass per sample."""
    parameters = list(model.parameters())
    stored = [p.new_empty((len(tokens), *p.shape)) for p in parameters]
    for i, row in enumerate(tokens):
        gradients = torch.autograd.grad(next_token(model, row[None]).sum(), parameters)
        for rows, gradient in zip(stored, gradients, strict=True):
            rows[i] = gradient
    return stored


def gram(gradients: list[torch.Tensor], dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """(N, ...) gradients of every parameter -> (N, N) float64, the products in `dtype`."""
    samples = len(gradients[0])
    total = gradients[0].new_zeros((samples, samples), dtype=torch.float64)
    for one in gradients:
        for columns in one.flatten(1).split(COLUMNS, 1):
            columns = columns.to(dtype)
            total += columns @ columns.mT
    return total


def singular_values(gradients: list[torch.Tensor]) -> torch.Tensor:
    """(N, ...) gradients of every parameter -> (N,), in float32 as is usual."""
    return torch.linalg.svdvals(torch.cat([one.flatten(1) for one in gradients], 1))
