"""The command line of an experiment: `python -m experiments.NAME [--smoke] [--resume RUN_DIR] [--field value ...]`."""

import dataclasses
import datetime
import errno
import inspect
import itertools
import json
import shlex
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from experiments.claims import Claim, applies, check_claim, claim_text
from experiments.configuration import diff_configs, load_config
from rnn_jax.training import (
    EXIT_CODE,
    CheckpointError,
    Interrupted,
    agree,
    is_writer,
    keep_memory,
    read_metrics,
    start_processes,
    use_cores,
)
from rnn_jax.training.processes import failure
from rnn_jax.training.resuming import claim_run, reopen_run
from rnn_jax.training.run_dir import start_run, to_plain, write_json

__all__ = ["main"]

Run = Callable[[Any, Path], Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Options:
    """What every experiment accepts besides its own configuration."""

    smoke: bool = False
    """Start from tiny sizes that finish in seconds; other flags still override."""
    preset: str | None = None
    """Start from a configuration that the experiment has under this name, such as paper; other flags still override."""
    run_root: Path = Path("runs")
    """Directory under which the run directory is made."""
    resume: Path | None = None
    """Go on with the interrupted run of this run directory, with its configuration: no other flags."""
    cores: int | None = None
    """On a CPU: devices to split batches over. By default one for each core; 1 is a single device, as JAX makes it."""
    distributed: bool = False
    """Work with the other processes that a launcher started (Slurm, MPI, Kubernetes, TPU pod; see docs/scaling.md)."""


def main(
    config_type: type,
    run: Run,
    *,
    smoke: Any,
    claims: Sequence[Claim] = (),
    presets: Mapping[str, Any] = {},
    args: Sequence[str] | None = None,
) -> Path:
    """Runs an experiment from the command line.

    The flags are the fields of the configuration (nested ones with dots) and those of `Options`.
    A new run directory is made, `run(config, run_dir)` is called, and its metrics are printed and
    written to `result.json` there, with the claims that apply to this configuration, the
    configuration, seeds, seconds, device, commit and versions. A smoke run checks no claim.
    With `--distributed` each of several processes calls `run` with the same directory, and process 0
    prints and writes the result.

    Args:
      config_type: a frozen dataclass with a default for every field, and an integer `seed`.
      run: `run(config, run_dir) -> {name: number or text}`; the name of the experiment is the
        name of the module it is defined in.
      smoke: the instance of `config_type` that `--smoke` starts from.
      claims: what the experiment says about its metrics.
      presets: instances of `config_type` that `--preset NAME` starts from; "paper" has the sizes of the publication.
      args: the command line without the program; `sys.argv[1:]` if None.

    Returns:
      the run directory.

    Raises:
      SystemExit: code 75 where the run was told to stop by SIGTERM or SIGINT and saved; code 1 with a sentence where
        a directory or file cannot be read or written, there is no such preset, or `--resume` comes with other settings.
      ValueError: `config_type`, `smoke` or a preset is not what it must be, or a metric is not plain data.

    Example:
      >>> import tempfile
      >>> from experiments.claims import at_most
      >>> Config = dataclasses.make_dataclass("Config", [("seed", int, 0)], frozen=True)
      >>> def run(config, run_dir):
      ...     return {"double": 2 * config.seed}
      >>> claims = (at_most("double", 10, source="arithmetic"),)
      >>> args = ["--seed", "4", "--run-root", tempfile.mkdtemp()]
      >>> run_dir = main(Config, run, smoke=Config(), claims=claims, args=args)  # doctest:+ELLIPSIS
      <BLANKLINE>
      ...
      >>> json.loads((run_dir / "result.json").read_text())["metrics"]
      {'double': 8}
    """
    _check_types(config_type, {"smoke": smoke, **{f"presets[{name!r}]": preset for name, preset in presets.items()}})
    name = Path(inspect.getfile(run)).stem
    config, options = _parse(config_type, smoke, presets, name, inspect.getmodule(run), args)
    if options.distributed and options.cores is not None:
        raise SystemExit("error: --cores is for one process; with --distributed set JAX_NUM_CPU_DEVICES for each")
    keep_memory()
    if options.distributed:
        start_processes()
    else:
        use_cores(options.cores)
    run_dir = options.resume
    if run_dir is None:
        run_dir = start_run(name, config, root=options.run_root)
        if is_writer():
            write_json(run_dir / "options.json", {"experiment": name, "smoke": options.smoke})
    elif agree((run_dir / "result.json").exists()):
        _say(f"{run_dir} is finished; there is nothing to go on with")
        return run_dir
    plain = to_plain(config)
    claims = () if options.smoke else tuple(claim for claim in claims if applies(claim, plain))
    with claim_run(run_dir), _clear_errors(name, run_dir, options.distributed):
        if options.resume is not None:
            for note in reopen_run(run_dir):
                _say(f"note: {note}")
        started = time.monotonic()
        metrics = to_plain(dict(run(config, run_dir)))
        if is_writer():
            seconds = time.monotonic() - started + _earlier_seconds(run_dir)
            result = _result(name, options.smoke, plain, metrics, claims, seconds, run_dir)
            write_json(run_dir / "result.json", result)
            _print_result(result, run_dir)
    return run_dir


@contextmanager
def _clear_errors(name: str, run_dir: Path, distributed: bool) -> Generator[None]:
    """What a person can do something about ends in a sentence and an exit code instead of a traceback."""
    more = ["--distributed"] if distributed else []
    go_on = shlex.join(["python", "-m", f"experiments.{name}", "--resume", str(run_dir), *more])
    try:
        yield
    except Interrupted as stop:
        _say(f"{stop}. Go on with: {go_on}")
        raise SystemExit(EXIT_CODE) from None
    except CheckpointError as error:
        raise failure(f"error: {error}\nGo on with: {go_on}") from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES):
            raise
        raise failure(f"error: cannot write to {run_dir}: {error}\nGo on with: {go_on}") from error


def _earlier_seconds(run_dir: Path) -> float:
    """How long the earlier processes of a run worked, as far as their logs tell."""
    environments = sorted(run_dir.glob("environment*.json"), key=lambda path: path.stat().st_mtime)
    starts = [_start(path) for path in environments]
    files = [path.parent for path in run_dir.rglob("metrics*.jsonl")]
    times = [row["wall_time"] for folder in {*files} for row in read_metrics(folder)]
    pairs = itertools.pairwise(starts)
    return sum(max((t for t in times if start <= t < end), default=start) - start for start, end in pairs)


def _start(environment: Path) -> float:
    text = json.loads(environment.read_text(encoding="utf-8"))["start_time"]
    return datetime.datetime.fromisoformat(text).timestamp()


def _parse(
    config_type: type, smoke: Any, presets: Mapping[str, Any], name: str, module: Any, args: Sequence[str] | None
) -> tuple[Any, Options]:
    """Parses twice: once to see `--smoke` or `--preset`, then with the default configuration it asks for."""

    def parse(default: Any) -> Any:
        command = dataclasses.make_dataclass(
            "Command",
            [
                ("config", Annotated[config_type, tyro.conf.arg(name="")], default),
                ("options", Annotated[Options, tyro.conf.arg(name="")], Options()),
            ],
            frozen=True,
        )
        description = (module.__doc__ or "") if module is not None else ""
        return tyro.cli(command, prog=f"python -m experiments.{name}", description=description, args=args)

    parsed = parse(config_type())
    preset = parsed.options.preset
    if preset is not None:
        if preset not in presets:
            raise SystemExit(f"error: --preset must be one of {sorted(presets)}, got {preset!r}")
        if parsed.options.smoke or parsed.options.resume is not None:
            raise SystemExit("error: --preset is for a new run and cannot be had with --smoke or --resume")
        parsed = parse(presets[preset])
    if parsed.options.resume is not None:
        return _parse_resumed(config_type, name, parsed.options.resume, parse)
    if parsed.options.smoke:
        parsed = parse(smoke)
    return parsed.config, parsed.options


def _parse_resumed(config_type: type, name: str, run_dir: Path, parse: Callable[[Any], Any]) -> tuple[Any, Options]:
    """The configuration of the run that is to go on; flags must not change it."""
    try:
        config = load_config(config_type, run_dir)
        options = json.loads((run_dir / "options.json").read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: --resume cannot go on with {run_dir}: {error}") from None
    if options["experiment"] != name:
        raise SystemExit(f"error: --resume must name a run of {name}, got one of {options['experiment']}: {run_dir}")
    parsed = parse(config)
    changed = diff_configs(config, parsed.config)
    if changed:
        listed = ", ".join(f"{field} {there!r} would become {here!r}" for field, (there, here) in changed.items())
        raise SystemExit(
            f"error: --resume goes on with the configuration of {run_dir}, but {listed}. "
            "Leave these flags out, or start a new run"
        )
    return config, dataclasses.replace(parsed.options, smoke=options["smoke"], resume=run_dir)


def _check_types(config_type: type, instances: Mapping[str, Any]) -> None:
    """A configuration without defaults or seed could neither be run bare nor be repeated."""
    if not dataclasses.is_dataclass(config_type):
        raise ValueError(f"`config_type` must be a dataclass, got {config_type!r}")
    fields = dataclasses.fields(config_type)
    missing = [
        field.name
        for field in fields
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"`config_type` must have a default for every field, got none: {missing}")
    if "seed" not in [field.name for field in fields]:
        raise ValueError(f"`config_type` must have a field `seed`, got {[field.name for field in fields]}")
    for name, instance in instances.items():
        if not isinstance(instance, config_type):
            raise ValueError(f"`{name}` must be a {config_type.__name__}, got {instance!r}")


def _result(
    name: str,
    smoke: bool,
    config: dict[str, Any],
    metrics: dict[str, Any],
    claims: Sequence[Claim],
    seconds: float,
    run_dir: Path,
) -> dict[str, Any]:
    """Everything a reader needs to judge the numbers, in one plain dict."""
    environment = json.loads((run_dir / "environment.json").read_text(encoding="utf-8"))
    checks = [(claim, check_claim(claim, metrics)) for claim in claims]
    return {
        "experiment": name,
        "smoke": smoke,
        "metrics": metrics,
        "claims": [{"claim": claim_text(claim), "source": claim.source, **check._asdict()} for claim, check in checks],
        "seeds": [config["seed"]],
        "seconds": round(seconds, 3),
        "start_time": environment["start_time"],
        "device": {
            "backend": environment["backend"],
            "kind": environment["device_kind"],
            "count": environment["device_count"],
            "cpu_count": environment["cpu_count"],
        },
        "commit": environment["commit"],
        "dirty": environment["dirty"],
        "versions": environment["versions"],
        "config": config,
    }


def _say(line: str) -> None:
    if is_writer():
        Console(stderr=True).print(line, highlight=False, markup=False, soft_wrap=True)


def _print_result(result: Mapping[str, Any], run_dir: Path) -> None:
    """Prints the metrics, the claims and where everything lies."""
    console = Console()
    table = Table("metric")
    table.add_column("value", justify="right")
    for metric, value in result["metrics"].items():
        table.add_row(metric, f"{value:.6g}" if isinstance(value, float) else str(value))
    title = f"{result['experiment']}{' (smoke run)' if result['smoke'] else ''}"
    console.print(f"\n[bold]{title}[/]", highlight=False)
    console.print(table)
    for check in result["claims"]:
        style = "green" if check["holds"] else "bold red"
        console.print(f"claim: {check['text']}", style=style, highlight=False, markup=False)
    console.print(
        f"{result['seconds']:.1f} s · everything is in {run_dir}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
