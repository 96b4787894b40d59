"""One plain cell for a library that has cells and no options: found and proved, or refused with the reason."""

from typing import Any, Literal

from rnn_jax import checks
from rnn_jax.cells.gru import GRUParams
from rnn_jax.cells.lstm import LSTMParams
from rnn_jax.interop.plain import Walk, take_apart
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
    refuse_options(walk, "cell", library, reset)
    return walk


def refuse_options(walk: Walk, name: str, library: str, reset: Literal["after", "before"]) -> None:
    """Raises ValueError if a cell, the argument `name`, has what the cells of `library` lack."""
    params: Any = walk.params
    if isinstance(params, GRUParams) and (ours := "before" if params.b_hn is None else "after") != reset:
        raise ValueError(
            f"`{name}` is a GRU that resets {ours} the recurrent product and that of {library} {reset} it: they are "
            f'different functions, and no weights make them equal; train gru(..., reset="{reset}")'
        )
    if isinstance(params, LSTMParams):
        w_h: Any = params.w_h
        size = w_h.shape[0] if params.w_projection is None else params.w_projection.shape[0]
        options = {
            "peepholes": params.w_peephole is not None,
            "a projection": params.w_projection is not None,
            "coupled gates": w_h.shape[1] == 3 * size,
            "layer norm": params.norm is not None,
        }
        if any(options.values()):
            has = ", ".join(option for option, there in options.items() if there)
            raise ValueError(f"`{name}` must be a plain lstm, all that {library} has; got one with {has}")
