"""The cells, one file each, and the table `CELLS` of all of them by name."""

from collections.abc import Callable
from typing import Any

from rnn_jax import checks
from rnn_jax.cells.antisymmetric import antisymmetric
from rnn_jax.cells.co_rnn import co_rnn
from rnn_jax.cells.conv_lstm import conv_lstm
from rnn_jax.cells.elman import elman, irnn
from rnn_jax.cells.gru import gru
from rnn_jax.cells.ind_rnn import ind_rnn
from rnn_jax.cells.lru import lru
from rnn_jax.cells.lstm import lstm
from rnn_jax.cells.m_lstm import m_lstm
from rnn_jax.cells.mgu import mgu
from rnn_jax.cells.min_gru import min_gru
from rnn_jax.cells.min_lstm import min_lstm
from rnn_jax.cells.orthogonal_rnn import orthogonal_rnn
from rnn_jax.cells.rg_lru import rg_lru
from rnn_jax.cells.s5 import s5
from rnn_jax.cells.s_lstm import s_lstm
from rnn_jax.cells.sh_plrnn import sh_plrnn
from rnn_jax.types import Cell, LinearCell

CELLS: dict[str, Callable[..., Cell | LinearCell]] = {
    "elman": elman,
    "irnn": irnn,
    "lstm": lstm,
    "gru": gru,
    "mgu": mgu,
    "ind_rnn": ind_rnn,
    "min_gru": min_gru,
    "min_lstm": min_lstm,
    "lru": lru,
    "s5": s5,
    "rg_lru": rg_lru,
    "s_lstm": s_lstm,
    "m_lstm": m_lstm,
    "conv_lstm": conv_lstm,
    "co_rnn": co_rnn,
    "antisymmetric": antisymmetric,
    "orthogonal_rnn": orthogonal_rnn,
    "sh_plrnn": sh_plrnn,
}
"""Every cell by name: `CELLS[name](hidden_size, **options)`. The property tests run over this table."""


def make_cell(name: str, hidden_size: int, **options: Any) -> Cell | LinearCell:
    """Builds a cell by its name in `CELLS`, for command lines and configuration files.

    Args:
        name: such as "lstm".
        hidden_size: H.
        **options: keyword arguments of the constructor.

    Returns:
        The cell.

    Raises:
        ValueError: for an unknown name; the text lists the known ones.

    Example:
        >>> make_cell("gru", 8, reset="before") is gru(8, reset="before")
        True
    """
    checks.one_of("name", name, tuple(CELLS))
    return CELLS[name](hidden_size, **options)


__all__ = [*CELLS, "CELLS", "make_cell"]
