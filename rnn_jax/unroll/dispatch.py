"""From a strategy to the function that runs it."""

from rnn_jax.types import Cell, LinearCell, Params, as_cell
from rnn_jax.unroll.cudnn import run_cudnn
from rnn_jax.unroll.newton import run_newton
from rnn_jax.unroll.recursive import run_recursive
from rnn_jax.unroll.run import Run, Sequence, Start, run_chunked, run_linear, run_scan
from rnn_jax.unroll.sharded import run_sharded
from rnn_jax.unroll.strategies import Associative, Auto, Chunked, Cudnn, Newton, Recursive, Scan, Sharded, Strategy


def run(
    cell: Cell | LinearCell,
    params: Params,
    sequence: Sequence,
    start: Start,
    reverse: bool,
    keep: bool,
    method: Strategy,
) -> Run:
    """Runs one cell with a strategy.

    Raises:
        ValueError: the strategy cannot run this cell.
    """
    if isinstance(method, Auto):
        if isinstance(cell, LinearCell):
            return run_linear(cell, params, sequence, start, reverse, keep)
        method = Scan()
    if isinstance(method, Sharded):
        return run_sharded(cell, params, sequence, start, reverse, keep, mesh=method.mesh, axis=method.axis)
    if isinstance(method, Newton):
        return run_newton(cell, params, sequence, start, reverse, keep, method=method)
    if isinstance(method, Cudnn):
        return run_cudnn(cell, params, sequence, start, reverse, keep)
    if isinstance(method, Associative):
        if not isinstance(cell, LinearCell):
            raise ValueError(
                "`method` Associative() needs a LinearCell, whose recurrence is h' = a h + b; this cell's step is not "
                "of that form. Use Newton(), Scan() or Chunked(size)."
            )
        return run_linear(cell, params, sequence, start, reverse, keep, parallel=True)
    if isinstance(cell, LinearCell) and method == Scan():
        return run_linear(cell, params, sequence, start, reverse, keep, parallel=False)
    stepped = as_cell(cell) if isinstance(cell, LinearCell) else cell
    if isinstance(method, Recursive):
        return run_recursive(stepped, params, sequence, start, reverse, keep, budget=method.budget)
    if isinstance(method, Chunked):
        return run_chunked(stepped, params, sequence, start, reverse, keep, size=method.size, remat=method.remat)
    return run_scan(stepped, params, sequence, start, reverse, keep, unroll=method.unroll)
