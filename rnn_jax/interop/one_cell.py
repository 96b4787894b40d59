"""One plain cell for a library that has cells and no options: found and proved, or refused with the reason."""

from collections.abc import Collection
from typing import Any, Literal

from rnn_jax import checks
from rnn_jax.cells.gru import GRUParams
from rnn_jax.cells.lstm import LSTMParams
from rnn_jax.interop.plain import Walk, is_coupled, take_apart
from rnn_jax.types import Cell, Params


def one_cell(cell: Cell, params: Params, library: str, reset: Literal["after", "before"]) -> Walk:
    """The `lstm`, `gru` or `elman` that `cell` is, without anything that the cells of `library` lack.

    Args:
        cell: one cell, no stack.
        params: its parameters.
        library: its name, for errors.
        reset: where the GRU of the library resets.

    Returns:
        The cell, proved by running it, with NumPy arrays as parameters.

    Raises:
        ValueError: for another cell or a stack, a reset on the other side of the product, peepholes, a projection,
            coupled gates or layer norm.
    """
    if not isinstance(cell, Cell) or cell.layers:
        got = f"a stack of {len(cell.layers)}; convert its cells one by one" if isinstance(cell, Cell) else None
        raise ValueError(f"`cell` must be an lstm, gru or elman, got {got or checks.describe(cell)}")
    try:
        ((walk,),) = take_apart(cell, params)
    except ValueError as error:
        raise ValueError(str(error).replace("`model`", "`cell`")) from None
    refuse_options(walk, "cell", library, reset=reset)
    return walk


def refuse_options(
    walk: Walk,
    name: str,
    library: str,
    *,
    reset: Literal["after", "before"] | None = None,
    allowed: Collection[str] = (),
) -> None:
    """Refuses a cell that has what the cells of a library lack.

    Args:
        walk: the cell.
        name: of the argument that holds it, for the error.
        library: its name, for the error.
        reset: where the GRU of the library resets; None if it has both.
        allowed: the options of an LSTM that the library has, of "peepholes", "a projection", "coupled gates" and
            "layer norm".

    Raises:
        ValueError: names what is lacking.
    """
    params: Any = walk.params
    if isinstance(params, GRUParams) and reset is not None:
        ours = "before" if params.b_hn is None else "after"
        if ours != reset:
            raise ValueError(
                f"`{name}` is a GRU that resets {ours} the recurrent product and that of {library} {reset} it: they "
                f'are different functions, and no weights make them equal; train gru(..., reset="{reset}")'
            )
    if isinstance(params, LSTMParams):
        options = {
            "peepholes": params.w_peephole is not None,
            "a projection": params.w_projection is not None,
            "coupled gates": is_coupled(params),
            "layer norm": params.norm is not None,
        }
        has = [option for option, there in options.items() if there and option not in allowed]
        if has:
            raise ValueError(f"`{name}` must be an lstm without {' and '.join(has)} for {library}, which has none")
