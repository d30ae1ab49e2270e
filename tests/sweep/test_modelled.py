"""The arithmetic of a GPU that is assumed: counts by hand, and what they say of each other."""

import dataclasses
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from geomfast.estimators.sampling.rules import BURN_IN
from geomfast.measures import measures
from geomfast.replay import BREAK_EVEN
from geomfast.runs.estimate import Part
from geomfast.sweep.assumed import ASSUMED, Figure
from geomfast.sweep.estimate import estimate, left
from geomfast.sweep.jobs import Job
from geomfast.sweep.modelled import Modelled, parts_of
from geomfast.sweep.plan import Settings, run_specs
from geomfast.sweep.workload import PRODUCT, batch_tokens, gram_operations, lengths
from geomfast.testbed.models.scales import SCALES
from geomfast.testbed.tasks import LEVELS, TASK_NAMES

H200 = ASSUMED["h200"]
SETTINGS = Settings("joint", TASK_NAMES, LEVELS, 400, 168, None, "fp32", 60, 4, 26, 200)


def job(scale: str = "nano", **changes: Any) -> Job:
    (spec,) = run_specs(SETTINGS, (scale,), (0,))
    return Job(
        spec,
        dataclasses.replace(SETTINGS, **changes),
        measures(),
        Path("nowhere"),
        "cuda",
        threads=1,
    )


def settings_of(name: str, scale: str = "nano", **changes: Any) -> Part:
    return Modelled(job(scale, **changes), H200).checkpoint({name})[name]


def test_every_figure_says_where_it_comes_from() -> None:
    for device in ASSUMED.values():
        figures = device.figures()
        assert len(figures) == len(dataclasses.fields(device)) - 2  # besides name and title
        for figure in figures.values():
            assert isinstance(figure, Figure) and figure.value > 0 and len(figure.source) > 5


def test_a_step_of_nano_waits_for_its_kernels_and_one_of_xlarge_for_its_products() -> None:
    nano = Modelled(job(), H200).step()
    assert nano.kernels == 167
    assert nano.device == pytest.approx(0.4e-3, rel=0.01)
    assert nano.seconds == nano.device > H200.draw.value
    large = job("xlarge")
    tokens = batch_tokens(large)
    step = Modelled(large, H200).step()
    assert step.operations == 6 * 12 * 12 * 1024**2 * tokens
    products = step.operations / (67e12 * 0.5)
    assert products < step.device == step.seconds < 1.2 * products
    # In fewer bits the optimiser and what passes over numbers are left.
    half = Modelled(job("xlarge", precision="bf16"), H200).step()
    tf32 = Modelled(job("xlarge", precision="tf32"), H200).step()
    assert half.device < tf32.device < 0.4 * step.device
    assert half.device > 40 * SCALES["xlarge"].parameters / (4.3e12)


def test_measures_are_counted_in_passes() -> None:
    one = job("medium")
    layers, d, tokens = 8, 512, sum(lengths(one)) * 200
    forward = 2 * 12 * layers * d**2 * tokens
    assert settings_of("behaviour", "medium").operations == pytest.approx(forward)
    top = settings_of("hessian_top", "medium").operations
    assert top == pytest.approx(3 * forward * (1 + 8 * PRODUCT))
    trace = settings_of("hessian_trace", "medium", trace_probes=12).operations
    assert trace == pytest.approx(3 * forward * (1 + 12 * PRODUCT))
    of_density = {"density_probes": 2, "density_iterations": 15}
    density = settings_of("hessian_density", "medium", **of_density).operations
    assert density == pytest.approx(3 * forward * (1 + 30 * PRODUCT))
    grams = sum(gram_operations(SCALES["medium"], 200, t) for t in lengths(one))
    ranks = Modelled(one, H200).checkpoint({"fisher_rank", "gradient_covariance_rank"})
    assert sum(part.operations for part in ranks.values()) == pytest.approx(3 * forward + grams)
    chains = settings_of("llc", "medium", llc_chains=3, llc_draws=20).operations
    steps = 3 * 32 * (sum(lengths(one)) + max(lengths(one)))
    assert chains == pytest.approx((20 + BURN_IN) * 6 * 12 * layers * d**2 * steps)


def test_what_is_repeated_often_enough_is_captured() -> None:
    """A product fewer than pays is launched each time; one more costs a capture instead."""
    few = settings_of("hessian_trace", trace_probes=BREAK_EVEN)
    many = settings_of("hessian_trace", trace_probes=BREAK_EVEN + 1)
    assert many.device > few.device
    launches = 24 * BREAK_EVEN * 180 * H200.launch.value  # 180 kernels a product of nano
    captures = 24 * 180 * H200.capture.value
    assert few.seconds > launches and many.seconds < launches + captures
    longer = settings_of("hessian_trace", trace_probes=100)
    each = (longer.seconds - many.seconds) / (100 - BREAK_EVEN - 1)
    assert each < 0.5 * few.seconds / BREAK_EVEN


def test_random_numbers_are_drawn_once_for_all_task_levels() -> None:
    """And not for each of 24: that would be a minute at xlarge."""
    parts = settings_of("hessian_density", "xlarge", density_probes=1, density_iterations=20)
    waiting = parts.seconds - parts.device
    drawn = SCALES["xlarge"].parameters * H200.normal.value
    sent = 24 * 4 * SCALES["xlarge"].parameters / H200.transfer.value
    captured = 24 * (60 + 60 * 12) * H200.capture.value
    assert waiting == pytest.approx(drawn + sent + captured, rel=0.2)


@pytest.mark.parametrize("name", ["behaviour", *measures()])
def test_larger_scales_and_more_samples_take_more(name: str) -> None:
    each = [settings_of(name, scale) for scale in SCALES]
    # Linear probes go by layers, of which large and xlarge have as many.
    pairs = pairwise(each if name != "probe_accuracy" else each[:-1])
    assert all(small.seconds < large.seconds for small, large in pairs)
    # All batches of a chain have 32 samples; solves of probes are a time each.
    if name not in ("llc", "probe_accuracy"):
        fewer = settings_of(name, "xlarge", samples=50)
        assert fewer.operations < each[-1].operations and fewer.seconds < each[-1].seconds


def test_parts_add_up_to_the_estimate() -> None:
    one = job("small")
    todo = left(one)
    found = estimate(one, todo, H200)
    assert set(found.seconds) == {"starting", "training", "writing", "behaviour", *measures()}
    assert found.seconds == {name: part.seconds for name, part in found.parts.items()}
    work = Modelled(one, H200)
    again = parts_of(work, list(todo.measures.values()), todo.steps)
    assert again["training"] == work.step().times(400)
    each = work.checkpoint(set(measures()))["llc"]
    # Of untrained weights there are no chains.
    assert again["llc"].seconds == pytest.approx((len(todo.measures) - 1) * each.seconds)
    assert found.parts["writing"].device == 0.0


def test_a_measure_that_takes_anothers_search_adds_a_gradient() -> None:
    work = Modelled(job(), H200)
    alone = work.checkpoint({"hessian_subspace"})["hessian_subspace"]
    together = work.checkpoint({"hessian_top", "hessian_subspace", "hessian_edge"})
    assert together["hessian_top"] == alone
    for name in ("hessian_subspace", "hessian_edge"):
        assert 0 < together[name].operations < 0.1 * alone.operations
    both = work.checkpoint({"hessian_density", "hessian_negative"})
    assert both["hessian_negative"].operations < 0.01 * both["hessian_density"].operations
