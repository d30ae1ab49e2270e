"""python -m tests.property FIRST COUNT: compares so many draws and says what came out."""

from __future__ import annotations

import argparse
import collections
import time
import traceback

import torch

from tests.property.compare import Outcome, classes, compared


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.property", description=__doc__)
    parser.add_argument("first", type=int, help="first seed")
    parser.add_argument("count", type=int, help="number of seeds")
    parser.add_argument("--show", type=int, default=3, help="draws to print of every kind of fault")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    right = 0
    refused: list[str] = []
    faulty: dict[str, list[Outcome]] = collections.defaultdict(list)
    for seed in range(chosen.first, chosen.first + chosen.count):
        try:
            outcome = compared(seed)
        except Exception as error:
            print(f"seed {seed}: the test itself failed")
            traceback.print_exception(error, limit=-3)
            continue
        refused += outcome.refused
        right += not outcome.faults
        for kind, measure, message in outcome.faults:
            (name,) = classes([message])
            faulty[f"{kind} | {measure} | {name}"].append(outcome)
    seconds = time.perf_counter() - started
    print(f"{chosen.count} draws in {seconds:.0f} s: {right} right (values, or refused as due)")
    for message, times in classes(refused).most_common():
        print(f"  refused {times}: {message}")
    for name, outcomes in sorted(faulty.items(), key=lambda item: -len(item[1])):
        print(f"{len(outcomes)} x {name}")
        for outcome in outcomes[: chosen.show]:
            print("  " + outcome.said())


if __name__ == "__main__":
    main()
