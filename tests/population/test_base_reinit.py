"""Re-initialised parts: which names mean what, and numbers as the architecture draws them."""

import copy

import pytest
import torch

from geomfast.population.base.reinit import Initialiser, find_parts
from geomfast.runs.errors import PlanError
from tests.lm.language_models import FAMILIES, network

BLOCKS = {"GPT2": "transformer.h", "GPTNeoX": "gpt_neox.layers", "Llama": "model.layers"}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_block_and_the_head_are_found(family: str) -> None:
    model = network(family)
    parts = find_parts(model, ["last-block", "head"])
    block = f"{BLOCKS[family]}.1"
    own = {name for name, _ in model.named_parameters() if name.startswith(f"{block}.")}
    assert set(parts.names) == own | {"lm_head.weight"}
    assert parts.blocks[-1] == block and parts.head == "lm_head"
    assert find_parts(model, [f"{block}.*", "lm_head"]).names == parts.names
    assert set(find_parts(model, [block]).names) == own


def test_a_tied_head_gets_a_matrix_of_its_own_and_the_embedding_stays() -> None:
    model = network("GPT2")
    embedding = model.get_parameter("transformer.wte.weight")
    assert model.get_parameter("lm_head.weight") is embedding
    before, ids = embedding.detach().clone(), torch.tensor([[3, 4, 5]])
    logits = model(input_ids=ids).logits
    assert not find_parts(model, ["last-block"]).untied
    assert model.get_parameter("lm_head.weight") is embedding
    parts = find_parts(model, ["head"])
    assert parts.untied and parts.names == ("lm_head.weight",)
    assert model.get_parameter("lm_head.weight") is not embedding
    assert torch.equal(embedding, before)
    torch.testing.assert_close(model(input_ids=ids).logits, logits)
    assert not find_parts(model, ["head"]).untied  # no longer tied
    assert not find_parts(network("Llama"), ["head"]).untied


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["nowhere.*"], "--reinit nowhere.*: no module of GPT2LMHeadModel with weights"),
        (["*.attn_dropout"], "no module of GPT2LMHeadModel with weights is called that"),
        (["*"], "that is all of GPT2LMHeadModel"),
        (["transformer", "head"], "that is all of GPT2LMHeadModel"),
    ],
)
def test_patterns_of_nothing_or_everything_are_refused(asked: list[str], said: str) -> None:
    with pytest.raises(PlanError) as refused:
        find_parts(network("GPT2"), asked)
    assert said in str(refused.value)


def test_numbers_are_those_of_the_architecture_and_of_the_seed() -> None:
    """Residual projections of GPT-2 are scaled by one over the root of twice the layers."""
    model = network("GPT2", width=64)
    before = copy.deepcopy(model.state_dict())
    generator = torch.random.get_rng_state()
    initialiser = Initialiser(model, find_parts(model, ["last-block", "head"]))
    one, again, other = (initialiser.draw(seed) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(one[name], again[name]) for name in one)
    deviation = {name: float(x.std()) for name, x in one.items()}
    usual, scaled = model.config.initializer_range, model.config.initializer_range / 4**0.5
    block = "transformer.h.1."
    for name, expected in (
        (f"{block}attn.c_attn.weight", usual),
        (f"{block}attn.c_proj.weight", scaled),
        (f"{block}mlp.c_proj.weight", scaled),
        ("lm_head.weight", usual),
    ):
        assert deviation[name] == pytest.approx(expected, rel=0.05), name
        assert not torch.equal(one[name], other[name])
    assert (one[f"{block}ln_1.weight"] == 1).all() and (one[f"{block}ln_1.bias"] == 0).all()


def test_a_part_has_its_numbers_whatever_else_is_re_initialised() -> None:
    model = network("GPT2")
    whole = Initialiser(model, find_parts(model, ["last-block", "head"])).draw(7)
    for asked in (["head"], ["transformer.h.1.attn.c_proj"], ["transformer.*.mlp"]):
        some = Initialiser(model, find_parts(model, asked)).draw(7)
        for name in whole.keys() & some.keys():
            assert torch.equal(some[name], whole[name]), name


def test_what_an_architecture_does_not_initialise_is_refused() -> None:
    model = network("GPT2")
    model.transformer.h[1].extra = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(PlanError, match=r"does not initialise transformer\.h\.1\.extra"):
        Initialiser(model, find_parts(model, ["last-block"]))
