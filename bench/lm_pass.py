"""One checkpoint of a language model of Pythia's shape, measured in a process of its own.

    python -m bench.lm_pass CALL SIZE [FEW]

CALL is "geomfast" or "plain"; SIZE one of those in `SIZES`; FEW takes that many probes of a set.
Prints one line of JSON: processor seconds of the call alone, the highest memory of the process,
and every value. The weights are random, and pieces of words are learnt on the spot from the prompts
of the built-in sets, as many as make them about as many tokens as Pythia's own tokenizer does.
"""

from __future__ import annotations

import json
import platform
import resource
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from geomfast.lm import hf
from geomfast.lm.causal_lm import CausalLM
from geomfast.lm.encoding import EncodedProbes, encode
from geomfast.lm.probe_sets import builtin
from geomfast.measures.model.options import ModelSettings

#: Width, layers, heads of Pythia's models, and rows of the vocabulary.
SIZES = {
    "tiny": (32, 2, 2, 1100),
    "70m": (512, 6, 8, 50304),
    "160m": (768, 12, 12, 50304),
    "410m": (1024, 24, 16, 50304),
}
#: Pieces of words that make 14,788 tokens of all rows; Pythia's own makes 13,700.
PIECES = 1000
AT_ONCE = 64
Values = dict[str, float]


def language_model(size: str) -> CausalLM:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the library, at import
        import tokenizers
        import transformers
    width, layers, heads, rows = SIZES[size]
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=PIECES,
        show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    prompts = [item.prompt for probes in builtin().values() for item in probes.items]
    made.train_from_iterator(prompts, trainer)
    config = transformers.GPTNeoXConfig(
        vocab_size=rows,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=2048,
    )
    torch.manual_seed(0)
    model = transformers.GPTNeoXForCausalLM(config).eval()
    model.config.use_cache = False
    return CausalLM(model, transformers.PreTrainedTokenizerFast(tokenizer_object=made), size)


def by_geomfast(lm: CausalLM, sets: list[EncodedProbes]) -> Values:
    found = hf.measure_lm(lm, sets, ["behaviour", "rankme"])
    return {f"{name} {one.measure} {one.layer}".strip(): one.value for name, one in found}


@torch.no_grad()
def plainly(lm: CausalLM, sets: list[EncodedProbes]) -> Values:
    """As anyone would write it: a row for every choice, and another pass for hidden states."""
    values: Values = {}
    for probes in sets:
        choices = [choice for those in probes.choices for choice in those]
        sums: list[float] = []
        for first in range(0, len(choices), AT_ONCE):
            some = choices[first : first + AT_ONCE]
            batch = padded(lm, [choice.tokens for choice in some])
            logits = lm.model(**batch).logits[:, :-1].log_softmax(-1)
            found = logits.gather(2, batch["input_ids"][:, 1:, None])[..., 0]
            for row, choice in zip(found, some, strict=True):
                sums.append(row[choice.start - 1 : len(choice.tokens) - 1].sum().item())
        scores = torch.tensor(sums).split([len(those) for those in probes.choices])
        right = [float(x.argmax() == i) for x, i in zip(scores, probes.answers, strict=True)]
        nats = [
            x[i].item() / (len(one.tokens) - one.start)
            for x, i, one in zip(scores, probes.answers, probes.right, strict=True)
        ]
        values[f"{probes.name} accuracy"] = sum(right) / len(right)
        values[f"{probes.name} answer_logprob"] = sum(nats) / len(nats)
        prompts = [choice.tokens[: choice.start] for choice in probes.right]
        states: list[Tensor] = []
        for first in range(0, len(prompts), AT_ONCE):
            batch = padded(lm, prompts[first : first + AT_ONCE])
            layers = lm.model(**batch, output_hidden_states=True).hidden_states
            last = batch["attention_mask"].sum(1) - 1
            states.append(torch.stack([x[torch.arange(len(x)), last] for x in layers]))
        # The last of them is normed: of the last block alone there is none.
        *blocks, final = torch.cat(states, 1)[1:]
        for i, layer in enumerate(blocks, start=1):
            values[f"{probes.name} rankme block {i}"] = rankme(layer)
        values[f"{probes.name} rankme final"] = rankme(final)
    return values


def padded(lm: CausalLM, rows: list[tuple[int, ...]]) -> dict[str, Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[lm.padding] * (width - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


def rankme(x: Tensor) -> float:
    p = torch.linalg.svdvals(x.double())
    p = p / p.sum()
    return (-torch.xlogy(p, p).sum()).exp().item()


CALLS: dict[str, Callable[[CausalLM, list[EncodedProbes]], Values]] = {
    "geomfast": by_geomfast,
    "plain": plainly,
}


def main(call: str, size: str, few: str = "") -> None:
    torch.set_num_threads(1)
    lm = language_model(size)
    how = ModelSettings(samples=int(few) if few else None)
    sets = [encode(lm, probes, how) for probes in builtin().values()]
    before = processor_seconds()
    values = CALLS[call](lm, sets)
    found: dict[str, Any] = {"seconds": processor_seconds() - before, "peak": highest()}
    found["tokens"] = sum(len(row) for one in sets for row in rows_of(one))
    print(json.dumps(found | {"values": values}))


def rows_of(probes: EncodedProbes) -> set[tuple[int, ...]]:
    """Distinct rows of all choices, without the last token, which predicts nothing."""
    return {choice.tokens[:-1] for choices in probes.choices for choice in choices}


def processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def highest() -> int:
    unit = 1 if platform.system() == "Darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main(*sys.argv[1:])
