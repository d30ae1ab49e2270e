"""Models the time of a run on an assumed GPU: counted operations, rates of :mod:`.assumed`.

Products of matrices are counted in floating-point operations, what only passes over numbers in
bytes, and both in kernels, which take a time of their own however little they do.  Three things
take time: the device, the host that launches kernels meanwhile, and what the device waits for.
"""

from __future__ import annotations

import math

from geomfast.measures import Need, needing, spec_of
from geomfast.measures.spec import BEHAVIOUR, OF_ACTIVATIONS
from geomfast.replay import BREAK_EVEN, WARM_UP
from geomfast.runs.estimate import Part
from geomfast.runs.timing import STARTING, TRAINING
from geomfast.sweep.assumed import Assumed
from geomfast.sweep.jobs import Job
from geomfast.sweep.pace import BLOCK
from geomfast.sweep.plan import settings_of
from geomfast.sweep.workload import (
    PRODUCT,
    batch_tokens,
    gram_operations,
    lengths,
    products,
    takes_another,
)
from geomfast.testbed.models.scales import Scale

# Kernels of a pass, beside those of its blocks and of each block; counted by hand but for those of
# a training step, which are 167 at nano in a profile.
_STEP, _FORWARD, _GRADIENT, _TWICE, _CHAIN = (37, 65), (30, 12), (40, 36), (60, 60), (60, 50)
# Of the per-sample Gram matrices of a block, of a penalty of the linear probes, and around those.
_GRAMS, _PENALTY, _PROBE = 30, 70, 60
# Bytes that a forward and backward pass moves for each token and block, in widths: what is kept,
# written, read again, and as much in between.
_MOVED = 240
# The same for each parameter by clipping and AdamW.
_OPTIMISER = 40
_DMMA_SHARE = 0.5  # of the tensor cores' float64, in tiles that are half useful


class Modelled:
    """Parts of a run on a GPU.

    Args:
        job: the run.
        on: the GPU.
    """

    def __init__(self, job: Job, on: Assumed):
        self.job, self.on = job, on
        self.scale: Scale = job.spec.model
        self.samples = job.settings.samples
        self.lengths = lengths(job)

    def starting(self) -> Part:
        """Until the first step."""
        drawn = self.scale.parameters * self.on.normal.value
        return Part(seconds=self.on.start.value + drawn)

    def step(self) -> Part:
        """A training step, replayed; the next batch is drawn meanwhile."""
        tokens, parameters = batch_tokens(self.job), self.scale.parameters
        rate = self.on.products(self.job.settings.precision)
        moved = self._moved(tokens) + _OPTIMISER * parameters
        part = self._work(self._operations(tokens), rate, moved, self._kernels(_STEP), graph=True)
        return Part(
            part.operations,
            part.moved,
            part.kernels,
            part.device,
            max(part.seconds, self.on.draw.value),
        )

    def checkpoint(self, names: set[str]) -> dict[str, Part]:
        """Cost of each of these measures at one checkpoint."""
        found = {BEHAVIOUR: self._forward()} if BEHAVIOUR in names else {}
        found |= {name: self._spectra() for name in needing(names, *OF_ACTIVATIONS)}
        found |= {name: self._probes(name) for name in needing(names, Need.ANSWERS)}
        found |= {name: self._spectra() for name in needing(names, Need.CLASSES)}
        ranks = needing(names, Need.GRADIENTS)
        found |= {name: self._gradient_ranks().times(1 / len(ranks)) for name in ranks}
        for name in needing(names, Need.CURVATURE):
            taken = takes_another(self.job.settings, name, names)
            found[name] = self._gradients() if taken else self._hessian(name)
        return found | {name: self._chains(name) for name in needing(names, Need.CHAINS)}

    def _operations(self, tokens: float) -> float:
        """Cost of a forward and backward pass."""
        return 6 * BLOCK * self.scale.layers * self.scale.d_model**2 * tokens

    def _moved(self, tokens: float) -> float:
        return _MOVED * self.scale.layers * self.scale.d_model * tokens

    def _kernels(self, of: tuple[int, int]) -> float:
        return of[0] + of[1] * self.scale.layers

    def _work(
        self, operations: float, rate: float, moved: float, kernels: float, *, graph: bool = False
    ) -> Part:
        """Kernels one after the other, launched from Python unless they are a graph."""
        device = operations / rate + moved / self.on.moving
        device = max(device, kernels * self.on.kernel.value)
        host = 0.0 if graph else kernels * self.on.launch.value
        return Part(operations, moved, kernels, device, max(device, host))

    def _waiting(self, seconds: float) -> Part:
        """A part in which the device is idle."""
        return Part(seconds=seconds)

    def _repeated(self, calls: int, eager: Part, graph: Part) -> Part:
        """A piece of work done so often, captured where that pays; see geomfast/replay.py."""
        if calls - WARM_UP < BREAK_EVEN:
            return eager.times(calls)
        return graph.times(calls) + self._waiting(graph.kernels * self.on.capture.value)

    def _forward(self) -> Part:
        total, rate = Part(), self.on.products("fp32")
        for t in self.lengths:
            tokens = self.samples * t
            work = (self._operations(tokens) / 3, rate, self._moved(tokens) / 3)
            total += self._work(*work, self._kernels(_FORWARD))
        return total

    def _spectra(self) -> Part:
        """Gram matrices in float64, then a multiprocessor for each."""
        matrices = (self.scale.layers + 1) * len(self.lengths)
        rows, width = self.samples, self.scale.d_model
        side = min(rows, width)
        operations = 2.0 * matrices * side * side * max(rows, width)
        gram = self._work(operations, self.on.fp64.value * _DMMA_SHARE, 0.0, 4)
        waves = math.ceil(matrices / self.on.multiprocessors.value)
        seconds = waves * self.on.spectrum.value * (side / 200) ** 2
        return gram + Part(device=seconds, seconds=seconds)

    def _probes(self, name: str) -> Part:
        """Of every penalty an inverse for a layer and a solve for every set left out."""
        own = settings_of(self.job.settings, name)
        layers, penalties = self.scale.layers + 1, len(own.penalties)
        # Pairs of folds that a penalty is chosen by, and the folds themselves.
        left_out = math.comb(own.folds, 2) + own.folds
        solves = penalties * layers * (2 + left_out) * self.on.solve.value
        kernels = _PROBE + penalties * _PENALTY
        each = self._work(0.0, 1.0, 0.0, kernels) + Part(device=solves, seconds=solves)
        return each.times(len(self.lengths))

    def _gradient_ranks(self) -> Part:
        total, rate = Part(), self.on.products("fp32")
        for t in self.lengths:
            tokens = self.samples * t
            work = (self._operations(tokens), rate, self._moved(tokens))
            total += self._work(*work, self._kernels(_GRADIENT))
            operations = gram_operations(self.scale, self.samples, t)
            total += self._work(operations, self.on.gram.value, 0.0, _GRAMS * self.scale.layers)
        spectra = 4 * self.on.spectrum.value * len(self.lengths)
        return total + Part(device=spectra, seconds=spectra)

    def _gradients(self) -> Part:
        total, rate = Part(), self.on.products("fp32")
        for t in self.lengths:
            tokens = self.samples * t
            work = (self._operations(tokens), rate, self._moved(tokens))
            total += self._work(*work, self._kernels(_GRADIENT))
        return total

    def _hessian(self, name: str) -> Part:
        """A gradient, products with vectors made orthogonal to those before, and random numbers."""
        parameters, rate = self.scale.parameters, self.on.products("fp32")
        calls = products(self.job.settings, name)
        iterations = getattr(settings_of(self.job.settings, name), "iterations", None)
        in_a_row = iterations or calls
        # Every vector of the basis is read four times: two passes, two products each.
        orthogonal = 4 * 4 * parameters * in_a_row / 2
        total = Part()
        for t in self.lengths:
            tokens = self.samples * t
            first = (self._operations(tokens), rate, self._moved(tokens))
            total += self._work(*first, self._kernels(_GRADIENT))
            work = (
                PRODUCT * self._operations(tokens),
                rate,
                PRODUCT * self._moved(tokens) + orthogonal,
                self._kernels(_TWICE),
            )
            total += self._repeated(calls, self._work(*work), self._work(*work, graph=True))
        # Vectors of them: of signs one for all but the third that is a basis, of starts one each.
        numbers, each, size = calls / in_a_row, self.on.normal, 4
        if iterations is None and spec_of(name).products is not None:
            numbers, each, size = calls - calls // 3, self.on.sign, 1
        drawn = numbers * parameters * each.value
        sent = numbers * parameters * size * len(self.lengths) / self.on.transfer.value
        return total + self._waiting(drawn + sent)

    def _chains(self, name: str) -> Part:
        own, parameters = settings_of(self.job.settings, name), self.scale.parameters
        chains, batch = own.chains, own.batch_size
        total = Part()
        for t in [*self.lengths, max(self.lengths)]:  # and the mixture, padded to the longest
            tokens = chains * batch * t
            moved = self._moved(tokens) + self.on.langevin.value * chains * parameters
            work = (
                self._operations(tokens),
                self.on.products("fp32"),
                moved,
                self._kernels(_CHAIN),
            )
            total += self._repeated(own.steps, self._work(*work), self._work(*work, graph=True))
        return total


def parts_of(work: Modelled, measures: list[set[str]], steps: int) -> dict[str, Part]:
    """Cost of a run by activity, without writing.

    Args:
        work: of the run.
        measures: of every checkpoint.
        steps: to train.
    """
    found = {STARTING: work.starting(), TRAINING: work.step().times(steps)}
    once: dict[frozenset[str], dict[str, Part]] = {}
    for names in map(frozenset, measures):
        if names not in once:
            once[names] = work.checkpoint(set(names))
        for name, part in once[names].items():
            found[name] = found.get(name, Part()) + part
    return found
