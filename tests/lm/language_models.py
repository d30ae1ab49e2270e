"""Tiny language models of transformers, and tokenizers made on the spot."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the library, at import
    import tokenizers
    import transformers

from geomfast.lm.causal_lm import CausalLM
from geomfast.lm.probe_sets import ProbeItem, ProbeSet

FAMILIES = ("GPTNeoX", "GPT2", "Llama")
VOCABULARY = 60
CONTEXT = 32
WORDS = [
    *("the", "a", "cat", "dog", "mat", "sat", "on", "is", "was", "red", "blue"),
    *("one", "two", "three", "four", "five"),
]

#: Prompts and continuations of several lengths, in the words above.
PROBES = ProbeSet(
    "small",
    (
        ProbeItem("the cat sat on the", ("mat", "blue dog one"), 0),
        ProbeItem("one two three", ("red", "four five", "the"), 1),
        ProbeItem("a dog is", ("red", "on the mat"), 0),
        ProbeItem("the mat was", ("sat sat", "blue"), 1),
        ProbeItem("one two three four", ("five", "one"), 0),
        ProbeItem("dog", ("sat on a mat", "three two"), 0),
    ),
)


def tokenizer(*, end: str | None = None, padding: str | None = None) -> Any:
    """One word one token, split at white space."""
    vocabulary = {word: i for i, word in enumerate(["[unk]", "[end]", "[pad]", *WORDS])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[unk]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="[unk]", eos_token=end, pad_token=padding
    )


def byte_pairs(texts: list[str], rows: int) -> Any:
    """Pieces of words as those of GPT-2 and Pythia, learnt from a few texts."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=rows,
        show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    made.train_from_iterator(texts, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made)


def network(
    family: str, *, width: int = 16, rows: int = VOCABULARY, seed: int = 0, scale: float = 5.0
) -> nn.Module:
    """In evaluation mode; weights large enough for predictions that differ from each other."""
    common = {"vocab_size": rows, "bos_token_id": 1, "eos_token_id": 1}
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": width}
    sizes |= {"intermediate_size": 2 * width, "max_position_embeddings": CONTEXT}
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if family == "GPT2":
            small = {"n_layer": 2, "n_head": 2, "n_embd": width, "n_positions": CONTEXT}
            model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**small, **common))
        elif family == "GPTNeoX":
            config = transformers.GPTNeoXConfig(**sizes, **common)
            model = transformers.GPTNeoXForCausalLM(config)
        else:
            model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **common))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(scale)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    torch.random.set_rng_state(state)
    model.config.use_cache = False
    return model.eval()


def language_model(family: str = "GPTNeoX", **options: Any) -> CausalLM:
    return CausalLM(network(family, **options), tokenizer(), "tiny")


def save(folder: Path, family: str = "GPTNeoX", *, with_tokenizer: bool = True, **options) -> Path:
    """A checkpoint as transformers saves it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network(family, **options).save_pretrained(folder)
        if with_tokenizer:
            tokenizer().save_pretrained(folder)
    return folder
