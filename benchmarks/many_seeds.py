"""What do eight seeds in one program cost? Whole processes: one seed, eight together, eight one after the other.

    python benchmarks/many_seeds.py        # prints a table; needs an idle machine

SCAN with a small LSTM, from the command to the report, compilation and decoding included.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time

FLAGS = ("--split", "random", "--hidden-size", "32", "--num-steps", "400", "--test-commands", "512")


def run(*flags: str) -> float:
    """Seconds of one process."""
    with tempfile.TemporaryDirectory() as root:
        command = [sys.executable, "-m", "experiments.scan", "--run-root", root, *FLAGS, *flags]
        environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
        return time.perf_counter() - started


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parsed = parser.parse_args()
    n = str(parsed.seeds)
    print(f"| round | one seed, s | {n} together, s | {n} processes, s | together / one | together / processes |")
    print("|---|---|---|---|---|---|")
    for number in range(parsed.rounds):
        one, together = run("--seeds", "1"), run("--seeds", n)
        apart = sum(run("--seeds", "1", "--seed", str(seed)) for seed in range(parsed.seeds))
        ratios = f"{together / one:.2f} | {together / apart:.2f}"
        print(f"| {number + 1} | {one:.1f} | {together:.1f} | {apart:.1f} | {ratios} |", flush=True)


if __name__ == "__main__":
    main()
