"""Other libraries' Langevin steps and learning coefficients; each takes part where it imports.

What a library warns of is not shown: devinterp's `SGLD` is deprecated, and says so.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import math
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from geomfast.kernels.sgld import Dynamics

#: (parameters with gradients, at the center; dynamics; deviation of the noise, 1 but in checks)
#: -> what makes one step of them.
StepMaker = Callable[[list[nn.Parameter], Dynamics, float], Callable[[], object]]


def step_peers() -> dict[str, StepMaker]:
    """Name -> one optimizer step of a library; those not installed are left out."""
    optimizers = _imported("devinterp.optim")
    if optimizers is None:
        return {}

    def maker(make: Callable[..., Any], **more: float) -> StepMaker:
        def step_of(
            parameters: list[nn.Parameter], dynamics: Dynamics, deviation: float
        ) -> Callable[[], object]:
            with quiet():
                return make(
                    parameters,
                    lr=dynamics.lr,
                    nbeta=dynamics.nbeta,
                    localization=dynamics.localization,
                    noise_level=deviation,
                    **more,
                ).step

        return step_of

    return {
        "devinterp SGLD": maker(optimizers.SGLD),
        "devinterp SGMCMC": maker(optimizers.SGMCMC.sgld),
    }


@dataclass(frozen=True)
class Setting:
    """What an estimate is made with: every draw counts, the first ones too.

    Attributes:
        dynamics: of the steps.
        chains, draws: how many, and of each how many.
        batch_size: of a minibatch; divides the number of samples.
        device: "cpu" or "cuda".
    """

    dynamics: Dynamics
    chains: int
    draws: int
    batch_size: int
    device: str


@dataclass(frozen=True)
class Estimate:
    """A learning coefficient and its standard error."""

    value: float
    stderr: float

    @classmethod
    def of(cls, chains: Tensor) -> Estimate:
        """From what every chain found by itself."""
        return cls(chains.mean().item(), chains.std().item() / math.sqrt(len(chains)))


def estimate_peers(
    model: nn.Module, tokens: Tensor, setting: Setting
) -> dict[str, Callable[[], Estimate]]:
    """Name -> the whole estimate of one library; those that do not import are left out.

    Args:
        model: logits (N, T, V) of tokens; left as it is.
        tokens: (N, T) on the CPU, all of the data.
        setting: for all of them.
    """
    makers = {"devinterp": _devinterp, "canonical-interp": _canonical}
    found = {name: make(model, tokens, setting) for name, make in makers.items()}
    return {name: estimate for name, estimate in found.items() if estimate is not None}


def _devinterp(model: nn.Module, tokens: Tensor, s: Setting) -> Callable[[], Estimate] | None:
    """One chain after the other, on copies of the model.

    It is given what its defaults are not: an initial loss of all samples, each seen once (of 32
    batches a chain otherwise), and minibatches of its own for every chain, without which the
    spread between chains would not tell its error. It reads all losses back from a zarr store,
    which is part of the time.
    """
    library = _imported("devinterp.slt.llc")
    if library is None:
        return None
    datasets = importlib.import_module("datasets")
    data = datasets.Dataset.from_dict({"input_ids": tokens.tolist()}).with_format("torch")

    def estimate() -> Estimate:
        with quiet(), torch.random.fork_rng(), tempfile.TemporaryDirectory() as folder:
            found = library.llc(
                model,
                data,
                observables={},
                lr=s.dynamics.lr,
                n_beta=s.dynamics.nbeta,
                localization=s.dynamics.localization,
                num_chains=s.chains,
                num_draws=s.draws,
                batch_size=s.batch_size,
                num_init_loss_batches=len(tokens) // s.batch_size,
                match_sampling_input_ids_across_chains=False,
                device=s.device,
                output_path=Path(folder) / "samples.zarr",
                loss_fn=lambda model, ids: _token_losses(model(ids), ids),
            )
            return Estimate.of(torch.from_numpy(found.llc_per_chain.values.copy()))

    return estimate


def _canonical(model: nn.Module, tokens: Tensor, s: Setting) -> Callable[[], Estimate] | None:
    """All chains at once by vmap, on the same minibatches, with attention that vmap can batch.

    Its step is compiled as it comes; compiling the gradients, its default, fails on the CPU.
    """
    library = _imported("canonical_interp")
    if library is None:
        return None
    from torch.utils.data import DataLoader, TensorDataset

    def mean_loss(logits: Tensor, tokens: Tensor) -> Tensor:
        return _token_losses(logits, tokens).mean()

    def estimate() -> Estimate:
        with quiet(), torch.random.fork_rng(), sdpa_kernel(SDPBackend.MATH):
            torch.manual_seed(0)
            loader = DataLoader(TensorDataset(tokens, tokens), s.batch_size, shuffle=True)
            estimator = library.LLCEstimator(
                draws=s.draws,
                chains=s.chains,
                burnin_steps=0,
                steps_bw_draws=1,
                learning_rate=s.dynamics.lr,
                localization=s.dynamics.localization,
                nbeta=s.dynamics.nbeta,
            )
            estimator.estimate_llc(
                model, loader, mean_loss, devices=s.device, seed=0, compile=s.device == "cuda",
                show_progress=False,
            )  # fmt: skip
            return Estimate.of(estimator.get_metrics()["llcs"])

    return estimate


def _token_losses(logits: Tensor, tokens: Tensor) -> Tensor:
    """(N, T, V) logits -> (N, T - 1), as `geomfast.losses.next_token` before its mean."""
    return F.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")


def _imported(name: str) -> Any:
    """The module, or None where it or something that it needs is missing."""
    with quiet():
        try:
            return importlib.import_module(name)
        except ImportError:
            return None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without warnings and progress bars."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
