"""Times rnn_jax beside every other way to do the same work that is installed.

    python -m benchmarks                      # everything, about half an hour; needs an idle machine
    python -m benchmarks --only lstm gru      # cases whose names begin so
    python -m benchmarks --quick              # tiny sizes of everything, under a minute: does it all still work?

Installs nothing: peers that cannot be imported are left out. Besides rnn_jax and `lax.scan` by hand these are torch,
flax linen and nnx, dm-haiku, equinox, and Keras 3 on its JAX backend:

    python3 -m venv .venv-peers
    .venv-peers/bin/pip install -c constraints.txt -e ".[dev,interop]" dm-haiku equinox keras

Writes `results.json` and `table.md` after every measurement, and `ratios.png` at the end, so that what an interrupted
run had is kept. For a GPU there is `python -m benchmarks.on_gpu`.
"""

import argparse
import datetime
import json
import os
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.cases import select
from benchmarks.conductor import Settings, available_cpus, conduct
from benchmarks.peers import PEERS, is_there, version
from benchmarks.table import markdown


def main(arguments: list[str] | None = None) -> Path:
    """Runs the benchmark.

    Args:
        arguments: of the command line; those of this process if None.

    Returns:
        the directory of the results.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="beginnings of the names of cases")
    parser.add_argument("--quick", action="store_true", help="tiny sizes; times mean nothing")
    parser.add_argument(
        "--cores", type=int, choices=(1, 2), help="one setting; otherwise both (with --quick, one core)"
    )
    parser.add_argument("--rounds", type=int, help="rounds of turns, 5 by default (1 with --quick)")
    parser.add_argument("--output", type=Path, help="a directory; runs/benchmarks/DATE by default")
    parsed = parser.parse_args(arguments)
    rounds = (1 if parsed.quick else 5) if parsed.rounds is None else parsed.rounds
    cores = [parsed.cores] if parsed.cores else ([1] if parsed.quick else [1, 2])
    try:
        cases = select(parsed.only, parsed.quick)
    except ValueError as error:
        parser.error(str(error))
    if rounds < 1:
        parser.error(f"`--rounds` must be at least 1, got {rounds}")
    if max(cores) > len(available_cpus()):
        parser.error(f"`--cores` {max(cores)} needs as many cores, and this process may use {len(available_cpus())}")
    output = parsed.output or Path("runs") / "benchmarks" / f"{datetime.datetime.now():%Y%m%d-%H%M%S}"
    output.mkdir(parents=True, exist_ok=True)
    run: dict[str, Any] = {
        "machine": machine.describe(),
        "settings": {"rounds": rounds, "quick": parsed.quick, "cores": cores, "only": parsed.only},
        "peers": {peer: version(peer) if is_there(peer) else None for peer in PEERS},
        "measurements": [],
    }
    there = [f"{peer} {number}" for peer, number in run["peers"].items() if number]
    print(f"{', '.join(there)}; not installed: {', '.join(p for p, v in run['peers'].items() if not v) or 'none'}")

    def note(measurement: dict[str, Any]) -> None:
        run["measurements"].append(measurement)
        _replace(output / "results.json", json.dumps(run, indent=1, allow_nan=False) + "\n")
        _replace(output / "table.md", markdown(run))

    settings = Settings(rounds, turn_s=0.02 if parsed.quick else 0.3, smoke=parsed.quick)
    try:
        conduct(cases, cores, settings, note, say=lambda text: print(text, flush=True))
    except KeyboardInterrupt:
        print(f"interrupted after {len(run['measurements'])} measurements")
    from benchmarks.plot import draw  # imports jax: only when nothing is timed any more

    draw(run, output / "ratios.png")
    print(f"results are in {output}")
    return output


def _replace(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


if __name__ == "__main__":
    main()
