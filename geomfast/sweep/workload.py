"""Amount of computation in a run, and its time at a given pace.

Passes through the network are counted in tokens and blocks, what only reads parameters in numbers
touched.  What cannot be counted beforehand: how many products an eigenvalue takes, of which
:data:`PRODUCTS` are assumed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict

from geomfast.measures import Need, needing, spec_of
from geomfast.measures.spec import BEHAVIOUR, OF_ACTIVATIONS
from geomfast.sweep.jobs import Job
from geomfast.sweep.pace import BLOCK, Pace
from geomfast.sweep.plan import Settings, settings_of
from geomfast.testbed.models.scales import Scale
from geomfast.testbed.tasks import DIAGNOSTIC_STREAM, TaskLevel

#: Products until a top eigenvalue has converged; 4 to 9 were seen.
PRODUCTS = 8
#: What a product with the Hessian costs, in gradients (bench/results/hessian-zen3-avx2.json).
PRODUCT = 1.7
# Real tokens of a training batch, as a share of those processed; see training/mixture.py.
_REAL = 0.95
# Numbers read or written for each parameter by clipping and AdamW, and by a Langevin step.
_OPTIMISER, _LANGEVIN = 12, 10


class Workload:
    """Seconds of the parts of a run.

    Args:
        job: the run.
        pace: of its scale on its device.
    """

    def __init__(self, job: Job, pace: Pace):
        self.job, self.pace = job, pace
        self.scale: Scale = job.spec.model
        self.samples = job.settings.samples
        self.lengths = lengths(job)

    def gradient(self, tokens: float) -> float:
        """Seconds of a forward and backward pass in float32; a forward pass takes a third."""
        return self.scale.layers * (self.pace.block + tokens * self.pace.token)

    def step(self) -> float:
        """Seconds of a training step."""
        passes = self.scale.layers * batch_tokens(self.job) * self.pace.train_token
        return self.pace.draw + passes + _OPTIMISER * self.scale.parameters * self.pace.element

    def checkpoint(self, names: set[str]) -> dict[str, float]:
        """Seconds of each of these measures at one checkpoint."""
        states = (self.scale.layers + 1) * len(self.lengths)
        passes = sum(self.gradient(self.samples * t) for t in self.lengths)
        found = {BEHAVIOUR: passes / 3} if BEHAVIOUR in names else {}
        found |= {
            n: states * self.pace.spectrum for n in needing(names, *OF_ACTIVATIONS, Need.CLASSES)
        }
        found |= {name: states * self.pace.probe for name in needing(names, Need.ANSWERS)}
        # Both ranks share one pass.
        ranks = needing(names, Need.GRADIENTS)
        found |= {name: self._gradient_ranks() / len(ranks) for name in ranks}
        for name in needing(names, Need.CURVATURE):
            taken = takes_another(self.job.settings, name, names)
            found[name] = passes if taken else PRODUCT * products(self.job.settings, name) * passes
        return found | {name: self._chains(name) for name in needing(names, Need.CHAINS)}

    def _gradient_ranks(self) -> float:
        """Passes, Gram matrices by their cost rule, and eigenvalues of four matrices each.

        See geomfast/kernels/gradient_gram/README.md; half of every symmetric matrix is computed.
        """
        d, n = self.scale.d_model, self.samples
        flop = self.pace.token / (6 * BLOCK * d * d)  # seconds of one
        total = 0.0
        for t in self.lengths:
            grams = gram_operations(self.scale, n, t) * flop
            total += self.gradient(n * t) + grams + 4 * self.pace.eigenvalues
        return total

    def _chains(self, name: str) -> float:
        own = settings_of(self.job.settings, name)
        batch, steps = own.batch_size, own.chains * own.steps
        move = _LANGEVIN * self.scale.parameters * self.pace.element
        each = [*self.lengths, max(self.lengths)]  # and the mixture, padded to the longest
        return sum(steps * (self.gradient(batch * t) + move) for t in each)


def gram_operations(scale: Scale, samples: int, tokens: int) -> float:
    """Operations of the Gram matrices of per-sample gradients, each by the cheaper method.

    Args:
        scale: of the model.
        samples: N.
        tokens: T, of each.
    """
    d, total = scale.d_model, 0.0
    for rows, columns in ((3 * d, d), (d, d), (4 * d, d), (d, 4 * d)):
        ghost = samples**2 * tokens**2 * (rows + columns)
        made = samples**2 * rows * columns + 2 * samples * tokens * rows * columns
        total += min(ghost, made)
    return scale.layers * total


def lengths(job: Job) -> list[int]:
    """Tokens that go into the network of an example of every task-level measured."""
    return _lengths(job.spec.task_levels)


def _lengths(levels: Sequence[TaskLevel]) -> list[int]:
    drawn = [level.examples(DIAGNOSTIC_STREAM, 0, 1) for level in levels]
    return [examples.tokens.shape[1] - 1 for examples in drawn]


def batch_tokens(job: Job) -> float:
    """Tokens of a training step, padding included."""
    each = _lengths(job.spec.trained)
    return job.settings.batch_size * sum(each) / len(each) / _REAL


def products(settings: Settings, measure: str) -> int:
    """Products with a Hessian that a measure of it takes."""
    known = spec_of(measure).products
    return PRODUCTS if known is None else known(settings_of(settings, measure)) or PRODUCTS


def takes_another(settings: Settings, measure: str, among: Iterable[str]) -> bool:
    """Whether a measure takes the computation of another, and adds a gradient at most.

    Args:
        settings: of the sweep.
        measure: one of the Hessian.
        among: measures of the same checkpoint.
    """
    other = spec_of(measure).shares
    if not other or other not in among:
        return False
    own = asdict(settings_of(settings, measure))
    return asdict(settings_of(settings, other)).items() <= own.items()
