"""`unroll`, `unroll_carries` and `stream_step`."""

import jax
import jax.numpy as jnp

from rnn_jax import checks, tree
from rnn_jax.types import Array, Carry, Cell, LinearCell, Params, as_cell
from rnn_jax.unroll.borders import blank, crossings, real_steps
from rnn_jax.unroll.run import Run, Sequence, Start, run
from rnn_jax.unroll.strategies import Associative, Auto, Chunked, Scan, Sharded, Strategy


def unroll(
    cell: Cell | LinearCell,
    params: Params,
    xs: Array,
    carry: Carry | None = None,
    *,
    lengths: Array | None = None,
    mask: Array | None = None,
    resets: Array | None = None,
    reverse: bool = False,
    method: Strategy = Auto(),
) -> tuple[Carry, Array]:
    """Runs a cell over a sequence. Equal to

        carry = cell.init_carry(params, batch_shape)
        for t in range(T):
            carry, ys[t] = stream_step(cell, params, carry, xs[t])

    whatever the strategy.

    Args:
        cell: a `Cell`, a `LinearCell`, or a `stack` of them, which is run layer by layer.
        params: its parameters.
        xs: [T, *batch, I], floating. T may be 0.
        carry: where to start; by default the cell's initial carry.
        lengths: integers in [0, T], shaped like the batch or its leading axes: steps from there on are padding. On
            padding the carry is frozen and outputs are zero; whatever xs holds there (NaN too) harms neither values
            nor gradients. Length 0 returns the carry it started with.
        mask: boolean [T, *batch] or [T, *leading batch axes], True = real: padding at any position, as if the other
            steps were not there.
        resets: boolean, shaped like `mask`: where True, the cell's initial carry (not `carry`) comes back before that
            step, so one row may hold many sequences. Walking backwards the same borders separate the same sequences.
        reverse: walk from the last real step to the first; ys[t] still belongs to xs[t].
        method: `Auto()`, `Scan()`, `Chunked(size)`, `Associative()` or `Sharded(mesh, axis)`.

    Returns:
        `(carry, ys)`: the carry after the last real step, and ys [T, *batch, O] in the dtype of xs.

    Raises:
        ValueError: names the argument, what was expected and what came. Lengths that are traced cannot be checked:
            there a length beyond T counts as T, a negative one as 0.

    Example:
        >>> from rnn_jax import gru
        >>> cell = gru(8)
        >>> params = cell.init(jax.random.key(0), 3)
        >>> xs = jax.random.normal(jax.random.key(1), (5, 2, 3))
        >>> carry, ys = unroll(cell, params, xs, lengths=jnp.array([5, 2]))
        >>> ys.shape, bool((ys[2:, 1] == 0).all()), bool((ys[1, 1] == carry[1]).all())
        ((5, 2, 8), True, True)
    """
    result = _unroll(cell, params, xs, carry, lengths, mask, resets, reverse, method, keep=False)
    return result.carry, result.ys


def unroll_carries(
    cell: Cell | LinearCell,
    params: Params,
    xs: Array,
    carry: Carry | None = None,
    *,
    lengths: Array | None = None,
    mask: Array | None = None,
    resets: Array | None = None,
    reverse: bool = False,
    method: Strategy = Auto(),
) -> tuple[Carry, Array, Carry]:
    """`unroll`, and the carry after every step as well.

    Args:
        cell, params, xs, carry, lengths, mask, resets, reverse, method: as in `unroll`.

    Returns:
        `(carry, ys, carries)`: every leaf of `carries` is [T, *batch, ...]; on padding it repeats.

    Raises:
        ValueError: as `unroll`.
    """
    result = _unroll(cell, params, xs, carry, lengths, mask, resets, reverse, method, keep=True)
    return result.carry, result.ys, result.carries


def stream_step(cell: Cell | LinearCell, params: Params, carry: Carry, x: Array) -> tuple[Carry, Array]:
    """One step of a cell, for sequences that arrive in real time. T of them equal one `unroll`.

    Args:
        cell: a `Cell`, a `LinearCell` or a `stack`.
        params: its parameters; `cell.prepare(params)`, once, spares a `Cell` work on them at every step.
        carry: from `cell.init_carry(params, batch_shape)` or the last call.
        x: [*batch, I], floating.

    Returns:
        `(carry, y)`, y [*batch, O].

    Raises:
        ValueError: if the carry does not fit the cell or the batch.

    Example:
        >>> from rnn_jax import lstm
        >>> cell = lstm(8)
        >>> params = cell.init(jax.random.key(0), 3)
        >>> carry, y = stream_step(cell, params, cell.init_carry(params, (2,)), jnp.zeros((2, 3)))
        >>> y.shape
        (2, 8)
    """
    checks.is_cell(cell)
    if isinstance(cell, LinearCell):
        cell = as_cell(cell)
    x = jnp.asarray(x)
    checks.one_step("x", x)
    expected = jax.eval_shape(lambda: _initial_carry(cell, params, x))
    checks.carry_like(carry, expected)
    carry = jax.tree.map(lambda leaf, like: jnp.asarray(leaf).astype(like.dtype), carry, expected)
    carry, h = cell.step(params, carry, cell.project(params, x))
    return carry, cell.readout(params, h, x)


def _initial_carry(cell: Cell | LinearCell, params: Params, x: Array) -> Carry:
    """The initial carry for the batch of x, at least as wide as x."""
    return tree.widen(cell.init_carry(params, x.shape[:-1]), x.dtype)


def _unroll(
    cell: Cell | LinearCell,
    params: Params,
    xs: Array,
    carry: Carry | None,
    lengths: Array | None,
    mask: Array | None,
    resets: Array | None,
    reverse: bool,
    method: Strategy,
    *,
    keep: bool,
) -> Run:
    """Checks everything, then unrolls the cell, or the layers of a stack one after another."""
    checks.is_cell(cell)
    checks.sequence("xs", xs)
    xs = jnp.asarray(xs)
    if not isinstance(method, Strategy):
        options = "Auto(), Scan(), Chunked(size), Associative() or Sharded(mesh, axis)"
        raise ValueError(f"`method` must be {options}, got {checks.describe(method)}")
    num_steps, batch_shape = xs.shape[0], xs.shape[1:-1]
    real = real_steps(lengths, mask, num_steps, batch_shape)
    if resets is not None:
        resets = checks.step_mask("resets", resets, num_steps, batch_shape)
    fresh = crossings(resets, real, reverse)
    if carry is not None:
        checks.carry_like(carry, jax.eval_shape(lambda: _initial_carry(cell, params, xs[:1].sum(0))))
    return _unroll_layers(cell, params, xs, carry, real, fresh, reverse, method, keep)


def _unroll_layers(
    cell: Cell | LinearCell,
    params: Params,
    xs: Array,
    carry: Carry | None,
    real: Array | None,
    fresh: Array | None,
    reverse: bool,
    method: Strategy,
    keep: bool,
) -> Run:
    layers = () if isinstance(cell, LinearCell) else cell.layers
    if not layers:
        return _unroll_one(cell, params, xs, carry, real, fresh, reverse, method, keep)
    runs = []
    for index, (one, one_params) in enumerate(zip(layers, params, strict=True)):
        one_xs = runs[-1].ys if runs else xs
        one_carry = None if carry is None else carry[index]
        runs.append(_unroll_layers(one, one_params, one_xs, one_carry, real, fresh, reverse, method, keep))
    ys = cell.readout(params, runs[-1].ys, blank(real, xs))
    return Run(
        carry=tuple(r.carry for r in runs),
        ys=blank(real, ys),
        carries=tuple(r.carries for r in runs) if keep else None,
    )


def _unroll_one(
    cell: Cell | LinearCell,
    params: Params,
    xs: Array,
    carry: Carry | None,
    real: Array | None,
    fresh: Array | None,
    reverse: bool,
    method: Strategy,
    keep: bool,
) -> Run:
    """Unrolls one cell with a strategy made concrete."""
    noise = tree.per_step(params)
    checks.noise_steps(noise, xs.shape[0])
    if isinstance(cell, Cell):
        params = cell.prepare(params)
    initial = tree.widen(cell.init_carry(params, xs.shape[1:-1]), xs.dtype)
    if carry is None:
        carry = initial
    else:
        carry = jax.tree.map(lambda leaf, like: jnp.asarray(leaf).astype(like.dtype), carry, initial)
    sequence = Sequence(xs=blank(real, xs), real=real, fresh=fresh, noise=noise)
    return run(cell, params, sequence, Start(carry, initial), reverse, keep, _concrete(method, cell))


def _concrete(method: Strategy, cell: Cell | LinearCell) -> Scan | Chunked | Associative | Sharded:
    """What `Auto()` stands for on this backend."""
    if not isinstance(method, Auto):
        return method
    parallel = isinstance(cell, LinearCell) and jax.default_backend() != "cpu"
    return Associative() if parallel else Scan()
