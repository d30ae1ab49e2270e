"""Measures of models of transformers against slow references in float64.

The references share nothing with the package but the model, the texts and the noise of the chains:
samples go through the model alone and without padding, gradients one backward pass each, spectra by
singular values, the Hessian is dense, and chains are written out.
"""

import copy
import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

pytest.importorskip("transformers")

from geomfast.estimators.sampling.streams import Shuffled
from geomfast.kernels.sgld import normals
from geomfast.lm import hf
from geomfast.lm.causal_lm import CausalLM
from geomfast.measures.model.options import ModelSettings
from tests.lm.language_models import FAMILIES, PROBES, WORDS, network, tokenizer

# Probes that the dense Hessian is of, which takes the longest.
FEW = 2
CHAINS, DRAWS, BURN_IN = 2, 6, 2
LR, LOCALIZATION, SEED = 2e-3, 20.0, 6


@dataclass
class Reference:
    """Values of one model on `PROBES`."""

    rankme: dict[str, float]
    fisher: float
    covariance: float
    hessian: Tensor
    model: nn.Module

    def largest(self) -> float:
        return torch.linalg.eigvalsh(self.hessian)[-1].item()


def rank(eigenvalues: Tensor) -> float:
    p = eigenvalues.clamp_min(0.0)
    p = p / p.sum()
    return math.exp(-torch.xlogy(p, p).sum().item())


def samples(words) -> list[tuple[list[int], list[int]]]:
    """Prompt and right answer of every probe, as ids."""
    return [
        (words(item.prompt)["input_ids"], words(item.choices[item.answer])["input_ids"])
        for item in PROBES.items
    ]


def loss_alone(model: nn.Module, prompt: list[int], answer: list[int]) -> Tensor:
    logits = model(input_ids=torch.tensor([prompt + answer])).logits[0]
    predicted = logits[len(prompt) - 1 : -1].log_softmax(-1)
    return -predicted[torch.arange(len(answer)), answer].mean()


def flat(gradients) -> Tensor:
    return torch.cat([g.reshape(-1) for g in gradients])


def states_alone(model: nn.Module, prompt: list[int]) -> dict[str, Tensor]:
    """With the norm taken out, what transformers calls the last state is the last block's."""
    backbone = model.base_model
    name = next(x for x in ("final_layer_norm", "ln_f", "norm") if hasattr(backbone, x))
    norm = getattr(backbone, name)
    ids = torch.tensor([prompt])
    normed = model(input_ids=ids, output_hidden_states=True).hidden_states[-1]
    setattr(backbone, name, nn.Identity())
    _, first, second = model(input_ids=ids, output_hidden_states=True).hidden_states
    setattr(backbone, name, norm)
    found = {"block 1": first, "block 2": second, "final": normed}
    return {label: x[0, -1].detach() for label, x in found.items()}


def dense_hessian(model: nn.Module, texts) -> Tensor:
    parameters = list(model.parameters())
    size = sum(p.numel() for p in parameters)
    with sdpa_kernel(SDPBackend.MATH):
        total = torch.stack([loss_alone(model, *text) for text in texts]).mean()
        gradient = flat(torch.autograd.grad(total, parameters, create_graph=True))
        rows = []
        for part in torch.eye(size, dtype=torch.float64).split(256):
            found = torch.autograd.grad(
                gradient, parameters, part, retain_graph=True, is_grads_batched=True
            )
            rows.append(torch.cat([x.flatten(1) for x in found], 1))
    return torch.cat(rows)


def coefficient(model: nn.Module, texts, batch_size: int | None) -> float:
    """Chains in float64 with the noise and the minibatches of the package's."""
    n = len(texts)
    nbeta = n / math.log(n)
    model = copy.deepcopy(model)
    parameters = list(model.parameters())
    start = flat(p.detach() for p in parameters)
    initial = torch.stack([loss_alone(model, *text).detach() for text in texts])
    kept = []
    for chain in range(CHAINS):
        w = start.clone()
        stream = Shuffled(n, batch_size or n, (SEED, chain))
        for step in range(BURN_IN + DRAWS):
            which = range(n) if batch_size is None else stream.next().tolist()
            nn.utils.vector_to_parameters(w, parameters)
            losses = torch.stack([loss_alone(model, *texts[i]) for i in which])
            gradient = flat(torch.autograd.grad(losses.mean(), parameters))
            if step >= BURN_IN:
                kept.append((losses.detach() - initial[list(which)]).mean())
            noise = normals(CHAINS, len(w), seed=SEED, step=step)[chain].double()
            drift = nbeta * gradient + LOCALIZATION * (w - start)
            w = w - LR / 2 * drift + math.sqrt(LR) * noise
    return nbeta * torch.stack(kept).mean().item()


def small(family: str) -> CausalLM:
    return CausalLM(network(family, width=8, rows=len(WORDS) + 3), tokenizer(), "small")


@pytest.fixture(scope="module", params=FAMILIES)
def family(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def reference(family) -> Reference:
    lm = small(family)
    model = lm.model.double()
    texts = samples(lm.tokenizer)
    states = [states_alone(model, prompt) for prompt, _ in texts]
    ranks = {}
    for label in states[0]:
        spectrum = torch.linalg.svdvals(torch.stack([x[label] for x in states]))
        ranks[label] = rank(spectrum)
    parameters = list(model.parameters())
    gradients = torch.stack(
        [flat(torch.autograd.grad(loss_alone(model, *text), parameters)) for text in texts]
    )
    fisher = rank(torch.linalg.svdvals(gradients).square())
    covariance = rank(torch.linalg.svdvals(gradients - gradients.mean(0)).square())
    return Reference(ranks, fisher, covariance, dense_hessian(model, texts[:FEW]), model)


def options(batch_size: int | None = None, **more) -> ModelSettings:
    chains = {"lr": LR, "localization": LOCALIZATION, "chains": CHAINS, "draws": DRAWS}
    chains |= {"burn_in": BURN_IN, "batch_size": batch_size, "seed": SEED, "max_draws": DRAWS}
    return ModelSettings.asked(
        {
            "hessian_top": {"tol": 1e-5, "seed": SEED},
            "hessian_trace": {"probes": 12, "seed": SEED},
            "llc": chains,
        },
        **more,
    )


def measured(lm, measures, given):
    found = hf.measure_lm(lm, [hf.encode(lm, PROBES)], measures, given)
    return {f"{f.measure} {f.layer}".strip(): f for _, f in found}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ranks(family, reference, dtype):
    lm = small(family)
    lm.model.to(dtype)
    found = measured(lm, ["rankme", "fisher_rank", "gradient_covariance_rank"], options())
    tolerance = 2e-5 if dtype == torch.float32 else 1e-8
    for label, value in reference.rankme.items():
        assert found[f"rankme {label}"].value == pytest.approx(value, rel=tolerance), label
    assert found["fisher_rank"].value == pytest.approx(reference.fisher, rel=tolerance)
    assert found["gradient_covariance_rank"].value == pytest.approx(
        reference.covariance, rel=tolerance
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_curvature(family, reference, dtype):
    lm = small(family)
    lm.model.to(dtype)
    found = measured(lm, ["hessian_top", "hessian_trace"], options(samples=FEW))
    # The norm of Llama computes in float32, whatever the model's type is.
    double = 1e-6 if family == "Llama" else 1e-8
    tolerance = 1e-4 if dtype == torch.float32 else double
    top, trace = found["hessian_top"], found["hessian_trace"]
    assert top.value == pytest.approx(reference.largest(), rel=tolerance)
    assert abs(trace.value - reference.hessian.trace().item()) <= 4 * trace.stderr


@pytest.mark.parametrize("batch_size", [None, 4])
def test_local_learning_coefficient(family, reference, batch_size):
    lm = small(family)
    expected = coefficient(reference.model, samples(lm.tokenizer), batch_size)
    assert abs(expected) > 0.1
    single = measured(lm, ["llc"], options(batch_size))["llc"]
    assert single.value == pytest.approx(expected, rel=1e-3)
    lm.model.double()
    double = measured(lm, ["llc"], options(batch_size))["llc"]
    assert double.value == pytest.approx(expected, rel=1e-6)


def test_the_ranks_could_not_be_met_by_chance(family, reference):
    """They differ from each other and from their largest possible values."""
    values = [*reference.rankme.values(), reference.fisher, reference.covariance]
    assert len({round(value, 3) for value in values}) == 5
    assert max(values) < 5.9
