"""Bases of one's own for `geomfast population --base`: small GPT-2s that have learnt facts.

    python make_base.py OUT --sizes 2x64,4x64,4x128,6x128

Writes OUT/SIZE (a model of transformers with its tokenizer), OUT/train.jsonl and OUT/test.jsonl.

Every entity has one value of each relation. The bases read all facts in a few phrasings; the
examples of multiple choice ask for them in phrasings that no base has read, though in its words, of
some entities to train on and of others to test on. What seeds learn in training is how to answer;
what is asked in the test the base has to know.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the libraries, at import
    import tokenizers
    import transformers

#: Values of every relation, each one word.
RELATIONS = {
    "colour": "red blue green yellow white black brown purple orange grey",
    "city": "paris rome cairo oslo lima delhi tokyo quito accra seoul",
    "animal": "cat dog horse goat snake eagle whale tiger mouse camel",
    "food": "bread rice cheese soup fish beans pasta honey apples nuts",
    "trade": "baker smith pilot nurse judge painter farmer tailor sailor guard",
}
#: Phrasings that bases read.
READ = (
    "the {relation} of {entity} is {value} .",
    "{entity} has the {relation} {value} .",
    "for {entity} the {relation} is {value} .",
    "everyone knows that {entity} chose {value} as {relation} .",
    "{value} is the {relation} of {entity} .",
)
#: Phrasings of the examples, with the answer behind them.
ASKED = (
    "everyone knows the {relation} of {entity} is",
    "for {entity} everyone chose the {relation}",
)
END = "<end>"
_ONSETS, _VOWELS, _CODAS = "bdfgklmnprstvz", "aeiou", "lnrsx"
#: Tokens of a training sequence, and sequences of a step.
LENGTH, BATCH = 48, 16


def entities(count: int) -> list[str]:
    """Invented names, each one word."""
    syllables = ["".join(parts) for parts in itertools.product(_ONSETS, _VOWELS)]
    names = ["".join(parts) for parts in itertools.product(syllables, syllables[:20], _CODAS)]
    return random.Random(0).sample(names, count)


def facts(names: list[str], seed: int) -> dict[tuple[str, str], str]:
    """A value for every entity and relation."""
    draw = random.Random(seed)
    return {
        (name, relation): draw.choice(values.split())
        for name in names
        for relation, values in RELATIONS.items()
    }


def examples(
    known: dict[tuple[str, str], str], names: list[str], seed: int
) -> list[dict[str, Any]]:
    """Multiple choice about some entities, in the phrasings that no base reads."""
    draw, rows = random.Random(seed), []
    for (name, relation), value in known.items():
        if name not in names:
            continue
        for phrasing in ASKED:
            others = draw.sample([v for v in RELATIONS[relation].split() if v != value], 3)
            choices = draw.sample([value, *others], 4)
            prompt = phrasing.format(relation=relation, entity=name)
            rows.append({"prompt": prompt, "choices": choices, "answer": choices.index(value)})
    draw.shuffle(rows)
    return rows


def tokenizer(texts: list[str]) -> Any:
    """One word one token."""
    words = sorted({word for text in texts for word in text.split()})
    vocabulary = {word: i for i, word in enumerate(["<unknown>", END, *words])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unknown>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unknown>", eos_token=END, pad_token=END
    )


def sequences(texts: list[str], words: Any, seed: int) -> torch.Tensor:
    """(N, LENGTH) ids of the texts in some order, one after the other."""
    order = random.Random(seed).sample(texts, len(texts))
    ids = torch.tensor([token for text in order for token in words(f"{text} {END}")["input_ids"]])
    return ids[: len(ids) // LENGTH * LENGTH].view(-1, LENGTH)


def pretrained(size: str, texts: list[str], words: Any, steps: int) -> Any:
    """A GPT-2 trained on the texts; prints its loss now and then."""
    layers, width = map(int, size.split("x"))
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(words),
        n_layer=layers,
        n_embd=width,
        n_head=max(1, width // 32),
        n_positions=LENGTH,
        bos_token_id=words.eos_token_id,
        eos_token_id=words.eos_token_id,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    model = transformers.GPT2LMHeadModel(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, fused=True)
    epochs = (sequences(texts, words, seed) for seed in itertools.count())
    stream = (row for epoch in epochs for row in epoch)
    warmup, peak = min(100, steps // 10 + 1), 2e-3 * (64 / width) ** 0.5
    for step in range(steps):
        done = (step - warmup) / max(1, steps - warmup)
        rate = (
            (step + 1) / warmup if step < warmup else 0.05 + 0.475 * (1 + math.cos(math.pi * done))
        )
        optimizer.param_groups[0]["lr"] = peak * rate
        batch = torch.stack([next(stream) for _ in range(BATCH)])
        logits = model(input_ids=batch).logits[:, :-1]
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % max(1, steps // 5) == 0 or step == steps - 1:
            print(f"{size}: step {step}, loss {loss.item():.3f} nats per token", flush=True)
    return model.eval()


@torch.no_grad()
def recalled(model: Any, words: Any, known: dict[tuple[str, str], str]) -> float:
    """Share of the facts whose value the model finds likeliest, in the first phrasing."""
    prompts = [
        READ[0].partition(" {value}")[0].format(relation=relation, entity=name)
        for name, relation in known
    ]
    ids = torch.tensor([words(f"{END} {prompt}")["input_ids"] for prompt in prompts])
    right = torch.tensor([words(value)["input_ids"][0] for value in known.values()])
    return float((model(input_ids=ids).logits[:, -1].argmax(1) == right).float().mean())


def main() -> None:
    """Makes the files of examples and the bases that are not there yet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--sizes", default="2x64,4x64,4x128,6x128", help="LAYERSxWIDTH,...")
    parser.add_argument("--entities", type=int, default=120)
    parser.add_argument("--steps", type=int, default=2500)
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    names = entities(options.entities)
    known = facts(names, 0)
    texts = [
        phrasing.format(relation=relation, entity=name, value=value)
        for (name, relation), value in known.items()
        for phrasing in READ
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    rows = {}
    for split, own in (("train", names[: len(names) // 2]), ("test", names[len(names) // 2 :])):
        rows[split] = examples(known, own, len(rows) + 1)
        lines = "".join(json.dumps(row) + "\n" for row in rows[split])
        (options.out / f"{split}.jsonl").write_text(lines)
        print(f"{split}.jsonl: {len(rows[split])} examples")
    prompts = [row["prompt"] for split in rows.values() for row in split]
    words = tokenizer([*texts, *prompts])
    print(f"{len(known)} facts, {len(texts)} sentences, {len(words)} words")
    for size in options.sizes.split(","):
        folder = options.out / size
        if (folder / "config.json").exists():
            print(f"{size}: there already")
            continue
        begin = time.perf_counter()
        model = pretrained(size, texts, words, options.steps)
        took, share = time.perf_counter() - begin, recalled(model, words, known)
        model.save_pretrained(folder)
        words.save_pretrained(folder)
        count = sum(p.numel() for p in model.parameters())
        print(f"{size}: {count:,} parameters, {took:.0f} s, {share:.0%} of the facts recalled")


if __name__ == "__main__":
    main()
