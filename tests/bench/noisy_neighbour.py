#!/usr/bin/python3
"""What a tenant has of a machine that another one floods, by one command.

    tests/bench/noisy_neighbour.py                         # a random model of 25M parameters
    tests/bench/noisy_neighbour.py --model DIR --rounds 9

Starts its own daemons (build/release/bin, or KVASIR_BIN); prints Markdown. Tenant A keeps 64 streams under way; tenant
B of the same weight sends one request at a time. Three kinds of figures per model:

  neighbour  B's time to first token (p95, arrival to first token as the daemon's Usage says) in rounds, each alone first
             and then beside the flood. "At its fair share" is the time alone divided by B's share of the machine, that
             is times two: what B would see if half of the machine were all there is. The median over the rounds of
             flood / fair share must be at most 2.
  equal      both backlogged with 128 streams of the same shape: Jain's index of generated tokens, at least 0.98
  weights    the same with weights 1 and 3: the ratio of generated tokens, 3 within 5 %

Exit code 1 when a demanded figure is missed.
"""

import argparse
import pathlib
import statistics
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

import random_checkpoint
import two_tenants
from harness import BUNDLED_FOLDER, Daemon
from many_users import machine, spread, table



def measure(folder, options):
    with Daemon(config=two_tenants.config(folder)) as daemon:
        rounds = [two_tenants.neighbour_round(daemon, options.requests, options.prompt_tokens, options.streams,
                                              options.flood_prompt_tokens, options.flood_max_tokens)
                  for _ in range(options.rounds)]
    served = {}
    for weight in (1, 3):
        with Daemon(config=two_tenants.config(folder, {"b": weight})) as daemon:
            served[weight] = two_tenants.backlogged(daemon, 2 * options.streams, options.seconds,
                                                    options.flood_prompt_tokens, options.flood_max_tokens)
    return rounds, served


def report(name, measured):
    rounds, served = measured
    missed = []
    over_fair_share = [flood / (alone * 2) for alone, flood in rounds]
    if statistics.median(over_fair_share) > two_tenants.TTFT_AT_MOST:
        missed.append(f"{name}: time to first token is {spread(over_fair_share, digits=2)} times the fair share's")
    jain = two_tenants.jain(served[1].values())
    if jain < two_tenants.JAIN_AT_LEAST:
        missed.append(f"{name}: Jain's index is {jain:.4f} of {served[1]}")
    ratio = served[3]["b"] / served[3]["a"]
    if abs(ratio / 3 - 1) > two_tenants.WEIGHTS_WITHIN:
        missed.append(f"{name}: weights 1 and 3 served 1 to {ratio:.3f}")
    row = [name, spread([alone for alone, _ in rounds], 1e3), spread([flood for _, flood in rounds], 1e3),
           spread([flood / alone for alone, flood in rounds], digits=2), spread(over_fair_share, digits=2),
           f"{jain:.4f}", f"1 : {ratio:.2f}"]
    return row, missed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, action="append", help="a folder; may be repeated")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=40, help="of B, per round alone and beside the flood")
    parser.add_argument("--prompt_tokens", type=int, default=256, help="of B's requests")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--flood_prompt_tokens", type=int, default=256)
    parser.add_argument("--flood_max_tokens", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10, help="window of served tokens")
    options = parser.parse_args()

    print(f"`{' '.join(['tests/bench/noisy_neighbour.py', *sys.argv[1:]])}` on {machine()}.\n")
    rows, missed = [], []
    with tempfile.TemporaryDirectory(prefix="kvasir-random-") as random_folder:
        models = [(folder.name, folder) for folder in options.model or ()]
        if not models:
            random_checkpoint.write(random_folder, BUNDLED_FOLDER)
            models = [("random, 25M", random_folder)]
        for name, folder in models:
            row, misses = report(name, measure(folder, options))
            rows.append(row)
            missed += misses
    print(table(["model", "B's TTFT p95 alone, ms", "beside the flood", "over alone", "over fair share",
                 "Jain's index", "weights 1 : 3"], rows))
    for line in missed:
        print(f"missed: {line}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
