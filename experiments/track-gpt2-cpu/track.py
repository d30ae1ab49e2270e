"""Train a small GPT-2 from scratch on Python's own help texts, and watch its geometry meanwhile.

OMP_NUM_THREADS=1 python experiments/track-gpt2-cpu/track.py out/track-gpt2
"""

import sys
import time
from pydoc_data.topics import topics  # ships with every Python: what help("with") shows

import torch
from transformers import GPT2Config, GPT2LMHeadModel

import geomfast as gf
from geomfast.losses import next_token

STEPS, BATCH, LENGTH, SAMPLES, PEAK = 1500, 16, 64, 48, 2e-3


def texts() -> tuple[torch.Tensor, torch.Tensor]:
    """The help texts as bytes: (bytes to train on, held-out samples to measure on)."""
    every = torch.tensor(list("\n\n".join(topics[name] for name in sorted(topics)).encode()))
    windows = every[: len(every) // LENGTH * LENGTH].view(-1, LENGTH)
    held_out = torch.linspace(0, len(windows) - 1, SAMPLES).long()
    kept = torch.ones(len(windows), dtype=torch.bool)
    kept[held_out] = False
    return windows[kept].flatten(), windows[held_out]


def learning_rate(step: int) -> float:
    """Share of the peak: 50 steps of warm-up, then linearly to a tenth."""
    return min((step + 1) / 50, 1.0) * (1.0 - 0.9 * step / STEPS)


def main(out: str) -> None:
    torch.manual_seed(0)
    text, probe = texts()
    config = GPT2Config(
        vocab_size=256,
        n_positions=LENGTH,
        n_embd=64,
        n_layer=4,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPT2LMHeadModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), PEAK, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate)
    began = time.perf_counter()
    tracker = gf.Tracker(
        model,
        next_token,
        probe,
        measures=("rankme", "fisher_rank"),
        every="log",
        out=out,
        total_steps=STEPS,
        name="help-texts",
        scale="gpt2-4x64",
    )
    tracker.step(0)
    for step in range(1, STEPS + 1):
        starts = torch.randint(len(text) - LENGTH, (BATCH,))
        batch = text[starts[:, None] + torch.arange(LENGTH)]
        loss = next_token(model, batch).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if tracker.step(step, loss=loss, tokens=step * BATCH * LENGTH):
            print(f"step {step:5d}  loss {loss.item():.3f}  measured", flush=True)
    tracker.close()
    seconds, busy = time.perf_counter() - began, time.process_time()
    print(f"{seconds:.0f} s ({busy:.0f} of the processor); measuring added {tracker.overhead:.2%}")


if __name__ == "__main__":
    main(sys.argv[1])
