"""Pictures of measurements on networks: named curves, gradients by layer, stuck gates, branches, sweeps."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from numpy.typing import ArrayLike

from rnn_jax.plotting.style import FAINT, INK, PALETTE, finish, new_axes

__all__ = ["bifurcation_diagram", "gradient_map", "named_curves", "saturation_map", "sweep_map"]

_DASHES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (1, 1.5)))


def named_curves(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    ax: Axes | None = None,
    xlabel: str = "",
    ylabel: str = "",
    title: str = "",
    log: bool = False,
    lines: Mapping[str, float] | None = None,
) -> Axes:
    """Draws one or many curves under each name, such as sizes of gradients by distance, spectra, or errors by step.

    Args:
      curves: `{name: (xs [K], ys [K] or [N, K])}`; several ys have one colour. What is not finite is left out.
      ax: where to draw; a new figure if None.
      xlabel, ylabel, title: texts.
      log: whether the vertical axis is logarithmic.
      lines: levels to mark, by name.

    Returns:
      the axes.

    Raises:
      ValueError: xs and ys of a name do not fit.

    Example:
      >>> ax = named_curves({"lstm": ([0, 1], [1.0, 0.5]), "gru": ([0, 1], [[1.0, 0.1], [1.0, 0.2]])}, log=True)
      >>> len(ax.get_lines()), ax.get_yscale()
      (3, 'log')
    """
    ax = new_axes((7.6, 4.2)) if ax is None else ax
    for number, (name, (xs, ys)) in enumerate(curves.items()):
        xs, rows = np.asarray(xs, float), np.atleast_2d(np.asarray(ys, float))
        if xs.ndim != 1 or rows.ndim != 2 or rows.shape[1] != len(xs):
            raise ValueError(
                f"`curves[{name!r}]` must be xs [K] and ys [K] or [N, K], got shapes {xs.shape} and {np.shape(ys)}"
            )
        style = {"color": PALETTE[number % len(PALETTE)], "ls": _DASHES[number // len(PALETTE) % len(_DASHES)]}
        for row, values in enumerate(np.where(np.isfinite(rows), rows, np.nan)):
            ax.plot(xs, values, lw=1.6 if len(rows) == 1 else 1.2, alpha=0.9, label="" if row else name, **style)
    for name, level in (lines or {}).items():
        ax.axhline(level, color=PALETTE[5], lw=1.0, ls=(0, (5, 3)), zorder=1)
        place = {"xycoords": ("axes fraction", "data"), "xytext": (-2, 2), "textcoords": "offset points"}
        ax.annotate(name, (1.0, level), ha="right", va="bottom", fontsize=8, color=INK, **place)
    if log:
        ax.set_yscale("log")
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.grid(color=FAINT, lw=0.7, zorder=0)
    finish(ax, title)
    if len(curves) > 1:
        ax.legend(frameon=False, fontsize=8.5, loc="center left", bbox_to_anchor=(1.0, 0.5), labelcolor=INK)
    return ax


def gradient_map(
    norms: Mapping[str, ArrayLike], *, decades: float = 12, ax: Axes | None = None, title: str = ""
) -> Axes:
    """Draws how large gradients are at every step of every layer: time goes right, layers go up as they are stacked.

    Args:
      norms: `{layer: [T] or [T, B]}`, as `rnn_jax.analysis.gradient_norms` gives them. Of several rows the geometric
        mean is drawn. A step where a row has 0, or what is not finite, is left blank.
      decades: colours reach so many powers of ten down from the largest; what is less has the darkest.
      ax: where to draw; a new figure if None.
      title: text above.

    Returns:
      the axes.

    Raises:
      ValueError: there is no layer, or their shapes do not fit.

    Example:
      >>> ax = gradient_map({"lower": [0.01, 0.1], "upper": [[0.1, 0.2], [1.0, 1.0]]})
      >>> [text.get_text() for text in ax.get_yticklabels()], ax.images[0].get_array().shape
      (['lower', 'upper'], (2, 2))
    """
    tables = {name: np.asarray(values, float) for name, values in norms.items()}
    shapes = {name: table.shape for name, table in tables.items()}
    if not shapes or {len(shape) for shape in shapes.values()} - {1, 2} or len({s[:1] for s in shapes.values()}) > 1:
        raise ValueError(f"`norms` must be [T] or [T, B] for each of one or more layers, with one T, got {shapes}")
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.stack([np.log(t).reshape(len(t), -1).mean(1) for t in tables.values()])
    means = np.exp(np.where(np.isfinite(logs), logs, np.nan))
    ax = new_axes((7.6, 1.5 + 0.32 * len(tables))) if ax is None else ax
    top = np.nanmax(means) if np.isfinite(means).any() else 1.0
    norm = LogNorm(top * 10.0**-decades, top)
    image = ax.imshow(means, cmap="cividis", norm=norm, origin="lower", aspect="auto", interpolation="nearest")
    ax.set_yticks(range(len(tables)), list(tables))
    ax.set(xlabel="t, step", ylabel="layer")
    extend = "min" if np.nanmin(means, initial=top) < norm.vmin else "neither"
    ax.figure.colorbar(image, ax=ax, label="|dL/dh_t|", extend=extend)
    finish(ax, title)
    return ax


def saturation_map(
    gates: Mapping[str, tuple[ArrayLike, ArrayLike]], *, ax: Axes | None = None, title: str = ""
) -> Axes:
    """Draws how often each unit's gates are nearly shut and nearly open (Karpathy et al. 2015, figure 3).

    Args:
      gates: `{name: (shut [H], opened [H])}`, fractions, as `rnn_jax.analysis.saturation` gives them.
      ax: where to draw; a new figure if None.
      title: text above.

    Returns:
      the axes. On the diagonal a gate is never in between, at the origin always.

    Example:
      >>> ax = saturation_map({"f": ([0.1, 0.0], [0.8, 0.2])})
      >>> len(ax.collections)
      1
    """
    ax = new_axes((4.6, 4.2)) if ax is None else ax
    ax.plot([0, 1], [1, 0], color=PALETTE[5], lw=1.0, ls=(0, (5, 3)), zorder=1)
    for colour, (name, (shut, opened)) in zip(PALETTE, gates.items(), strict=False):
        ax.scatter(np.asarray(shut), np.asarray(opened), s=22, color=colour, alpha=0.6, lw=0, label=name, zorder=2)
    ax.set(xlabel="part of the steps nearly shut", ylabel="part of the steps nearly open")
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    ax.grid(color=FAINT, lw=0.7, zorder=0)
    finish(ax, title)
    ax.legend(frameon=False, fontsize=9, loc="upper right", title="gate", labelcolor=INK)
    return ax


def bifurcation_diagram(
    branches: Sequence[tuple[ArrayLike, ArrayLike, ArrayLike]],
    *,
    bifurcations: Sequence[tuple[str, float, float]] = (),
    ax: Axes | None = None,
    xlabel: str = "parameter",
    ylabel: str = "state",
    title: str = "",
) -> Axes:
    """Draws branches of fixed points: stable parts as thick lines, unstable ones dashed.

    Args:
      branches: `(values [N], states [N], num_unstable [N])` of each, as `rnn_jax.analysis.continue_fixed_point` follows
        them; a state is one number, such as a unit or a readout.
      bifurcations: `(kind, value, state)` of each, drawn as dots.
      ax: where to draw; a new figure if None.
      xlabel, ylabel, title: texts.

    Returns:
      the axes.

    Raises:
      ValueError: the arrays of a branch differ in length.

    Example:
      >>> ax = bifurcation_diagram([([0, 1, 2], [0, 0, 0], [0, 0, 1])], bifurcations=[("branch", 1.5, 0.0)])
      >>> len(ax.get_lines())
      3
    """
    ax = new_axes((6.4, 4.0)) if ax is None else ax
    for number, arrays in enumerate(branches):
        values, states, unstable = (np.asarray(array, float) for array in arrays)
        if not values.shape == states.shape == unstable.shape == (len(values),):
            shapes = ", ".join(str(np.shape(array)) for array in arrays)
            raise ValueError(f"`branches[{number}]` must be three arrays of one length, got shapes {shapes}")
        stable = unstable == 0
        cuts = np.flatnonzero(np.diff(stable)) + 1
        for part in np.split(np.arange(len(values)), cuts):
            inside = np.append(part, part[-1] + 1)[: len(values) - part[0]]  # joined to the next part
            look: Any = {"lw": 2.2} if stable[part[0]] else {"lw": 1.3, "ls": (0, (3, 2))}
            ax.plot(values[inside], states[inside], color=PALETTE[3], **look)
    for colour, kind in zip((PALETTE[0], PALETTE[1], PALETTE[2], PALETTE[4]), _kinds(bifurcations), strict=False):
        there = [(value, state) for name, value, state in bifurcations if name == kind]
        ax.plot(*zip(*there, strict=True), "o", ms=6, color=colour, label=kind.replace("_", " "), zorder=3)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.grid(color=FAINT, lw=0.7, zorder=0)
    finish(ax, title)
    if bifurcations:
        ax.legend(frameon=False, fontsize=9, labelcolor=INK)
    return ax


def _kinds(bifurcations: Sequence[tuple[str, float, float]]) -> list[str]:
    return sorted({kind for kind, _, _ in bifurcations})


def sweep_map(
    values: ArrayLike,
    ys: tuple[str, Sequence[float]],
    xs: tuple[str, Sequence[float]],
    *,
    label: str,
    log: bool = False,
    ax: Axes | None = None,
    title: str = "",
) -> Axes:
    """Draws a measurement over two settings, such as the mean over seeds of `rnn_jax.analysis.sweep`.

    Args:
      values: [P, Q]. What is not finite is left blank.
      ys, xs: name and values, P and Q of them, of what goes up and of what goes right.
      label: what is measured, with its unit.
      log: whether colours are logarithmic.
      ax: where to draw; a new figure if None.
      title: text above.

    Returns:
      the axes.

    Raises:
      ValueError: the shapes do not fit.

    Example:
      >>> ax = sweep_map([[1.0, 2.0], [3.0, 4.0]], ("gain", [0.5, 1.5]), ("noise", [0, 0.1]), label="size")
      >>> ax.get_xlabel(), ax.get_ylabel()
      ('noise', 'gain')
    """
    table = np.asarray(values, float)
    if table.shape != (len(ys[1]), len(xs[1])):
        raise ValueError(f"`values` must be [{len(ys[1])}, {len(xs[1])}] for these settings, got shape {table.shape}")
    ax = new_axes((2.8 + 0.5 * len(xs[1]), 1.6 + 0.4 * len(ys[1]))) if ax is None else ax
    table = np.where(np.isfinite(table), table, np.nan)
    norm = "log" if log and (table > 0).any() else None
    image = ax.imshow(table, cmap="viridis", norm=norm, origin="lower", aspect="auto")
    ax.set_xticks(range(len(xs[1])), [f"{value:g}" for value in xs[1]])
    ax.set_yticks(range(len(ys[1])), [f"{value:g}" for value in ys[1]])
    ax.set(xlabel=xs[0], ylabel=ys[0])
    ax.figure.colorbar(image, ax=ax, label=label)
    finish(ax, title)
    return ax
