"""Run many histories: `python -m tests.simulation [--histories N] [--seed N] [--jobs N] [--mutants]`.

The first history has the given or a random seed N, which is printed; the k-th after it has the seed N + k.
"""

from __future__ import annotations

import argparse
import random
import sys

from .runs import find_all, run_all


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--histories", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--mutants", action="store_true", help="remove each rule in turn, and check that it is noticed")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    if options.mutants:
        return find_all(options.seed)
    return run_all(options.seed, options.histories, options.jobs)


if __name__ == "__main__":
    sys.exit(main())
