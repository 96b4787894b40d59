"""What keeps a run from going on in nonsense: losses that are not finite, steps that were skipped, sudden jumps."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from rnn_jax.training.processes import by_writer
from rnn_jax.training.run_dir import to_plain
from rnn_jax.training.state import with_empty, without_empty

__all__ = ["Guard", "PostMortem", "describe", "is_spike", "load_post_mortem", "save_post_mortem"]

RECENT = 100


class Guard(NamedTuple):
    """When `fit` takes notice.

    A loss or gradient that is not finite stops a run, unless its step was made with `when_not_finite="skip"`: then it
    leaves such steps out, and stops only when there are too many in a row, in all runs of one program.

    Args:
      max_skipped: so many steps left out in a row stop a run.
      spike: a loss this many times the median of the last 100 is noted, and the batch and state are saved to look at;
        None: losses are not watched. For losses that are positive.
      max_saved: how many cases are noted, and saved, at most.

    Example:
      >>> Guard(spike=3.0).max_skipped
      20
    """

    max_skipped: int = 20
    spike: float | None = None
    max_saved: int = 3


class PostMortem(NamedTuple):
    """What was saved of a step that went wrong.

    Args:
      about: `step`, `reason`, the metrics of the step, and `ids` of the examples where the data gives them.
      batch: the arrays of the batch, by their place in it.
      state: a state after it. An update that is not finite is never applied; the batches of the next 40 ms or
        so may have been.
    """

    about: dict[str, Any]
    batch: dict[str, np.ndarray]
    state: Any


def is_spike(guard: Guard, recent: list[float], loss: float) -> bool:
    """Whether a loss jumps out of the recent ones.

    Args:
      guard: with a `spike` or None.
      recent: the losses before it; nothing is a spike among fewer than 20.
      loss: a finite loss.

    Returns:
      True for a spike.

    Example:
      >>> is_spike(Guard(spike=3.0), [1.0, 1.2] * 20, 3.5), is_spike(Guard(), [1.0, 1.2] * 20, 1e9)
      (True, False)
    """
    return guard.spike is not None and len(recent) >= 20 and loss > guard.spike * float(np.median(recent))


def save_post_mortem(
    run_dir: str | Path, step: int, reason: str, *, state: Any, batch: Any, metrics: Any, ids: Any = None
) -> Path:
    """Writes down what a step that went wrong saw: `run_dir/post_mortem-STEP`.

    Of several processes all call it: the state is saved whole, of the batch and its ids what process 0 has.

    Args:
      run_dir: an existing directory.
      step: the step.
      reason: what went wrong, in words.
      state: a state to look at.
      batch: the batch of the step.
      metrics: its metrics, plain data.
      ids: of its examples.

    Returns:
      the new directory; `load_post_mortem` reads it.
    """
    about = {"step": step, "reason": reason, "metrics": metrics, "ids": ids}
    folder = Path(by_writer(lambda: _save_batch(Path(run_dir), step, batch, about)))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save((folder / "state").resolve(), without_empty(state))
    return folder


def _save_batch(run_dir: Path, step: int, batch: Any, about: dict[str, Any]) -> str:
    """Makes the folder, with everything in it but the state."""
    folder = run_dir / f"post_mortem-{step}"
    count = 1
    while folder.exists():
        count += 1
        folder = run_dir / f"post_mortem-{step}-{count}"
    folder.mkdir()
    leaves = jax.tree_util.tree_leaves_with_path(batch)
    arrays: dict[str, Any] = {jax.tree_util.keystr(path) or "batch": _held(leaf) for path, leaf in leaves}
    np.savez(folder / "batch.npz", **arrays)
    (folder / "about.json").write_text(json.dumps(to_plain(about), indent=2) + "\n", encoding="utf-8")
    return str(folder)


def _held(leaf: Any) -> np.ndarray:
    """An array, or the part of it that the first device of this process holds."""
    here = not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated
    return np.asarray(leaf if here else leaf.addressable_data(0))


def load_post_mortem(folder: str | Path, like: Any) -> PostMortem:
    """Reads what `save_post_mortem` wrote.

    Args:
      folder: `run_dir/post_mortem-STEP`.
      like: a state of the same structure, for example from `create_state`.

    Returns:
      `PostMortem`.

    Raises:
      ValueError: `folder` is not such a directory.
    """
    folder = Path(folder)
    if not (folder / "about.json").is_file():
        raise ValueError(f"`folder` must be a directory that a run saved as post_mortem-STEP, got {str(folder)!r}")
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    with np.load(folder / "batch.npz") as file:
        batch = dict(file)
    with ocp.StandardCheckpointer() as checkpointer:
        held = checkpointer.restore((folder / "state").resolve(), without_empty(like))
    return PostMortem(about, batch, with_empty(held, like))


def describe(value: Any) -> str:
    """A number, or which of N are not finite."""
    value = np.asarray(value, np.float64)
    if value.ndim == 0:
        return f"{float(value):.4g}"
    worst = [f"{number:.4g} of run {index}" for index, number in enumerate(value) if not math.isfinite(number)]
    return ", ".join(worst) or f"at most {value.max():.4g}"
