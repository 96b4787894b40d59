"""From a strategy to the function that runs it."""

import jax

from rnn_jax.types import Cell, LinearCell, Params, as_cell
from rnn_jax.unroll.cudnn import run_cudnn
from rnn_jax.unroll.newton import run_newton
from rnn_jax.unroll.recursive import run_recursive
from rnn_jax.unroll.run import Run, Sequence, Start, run_associative, run_chunked, run_scan
from rnn_jax.unroll.sharded import run_sharded
from rnn_jax.unroll.strategies import Associative, Auto, Chunked, Cudnn, Newton, Recursive, Scan, Sharded, Strategy

Concrete = Scan | Chunked | Recursive | Associative | Sharded | Newton | Cudnn


def concrete(method: Strategy, cell: Cell | LinearCell) -> Concrete:
    """What `Auto()` stands for on this backend."""
    if not isinstance(method, Auto):
        return method
    parallel = isinstance(cell, LinearCell) and jax.default_backend() != "cpu"
    return Associative() if parallel else Scan()


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
    how = concrete(method, cell)
    if isinstance(how, Sharded):
        return run_sharded(cell, params, sequence, start, reverse, keep, mesh=how.mesh, axis=how.axis)
    if isinstance(how, Newton):
        return run_newton(cell, params, sequence, start, reverse, keep, method=how)
    if isinstance(how, Cudnn):
        return run_cudnn(cell, params, sequence, start, reverse, keep)
    if isinstance(how, Associative):
        if not isinstance(cell, LinearCell):
            raise ValueError(
                "`method` Associative() needs a LinearCell, whose recurrence is h' = a h + b; this cell's step is not "
                "of that form. Use Newton(), Scan() or Chunked(size)."
            )
        return run_associative(cell, params, sequence, start, reverse, keep)
    stepped = as_cell(cell) if isinstance(cell, LinearCell) else cell
    if isinstance(how, Recursive):
        return run_recursive(stepped, params, sequence, start, reverse, keep, budget=how.budget)
    if isinstance(how, Chunked):
        return run_chunked(stepped, params, sequence, start, reverse, keep, size=how.size, remat=how.remat)
    return run_scan(stepped, params, sequence, start, reverse, keep, unroll=how.unroll)
