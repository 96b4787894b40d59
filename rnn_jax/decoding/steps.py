"""The step that decoding runs, made from a cell over embedded tokens."""

import jax.numpy as jnp

from rnn_jax import checks, tree
from rnn_jax.decoding.task import Step
from rnn_jax.types import Array, Carry, Cell, LinearCell, Params
from rnn_jax.unroll import stream_step


def token_step(cell: Cell | LinearCell, params: Params, embedding: Array) -> Step:
    """A cell as the step of `greedy`, `sample` and `beam_search`: embed the token, step, give the logits.

    Args:
        cell: reads embedded tokens [..., E], its outputs are logits [..., V].
        params: its parameters, prepared here once.
        embedding: [N, E], floating, one row for each of the V tokens and for those that only start (N >= V). Its dtype
            is that of the activations.

    Returns:
        `(carry, tokens [*batch]) -> (carry, logits [*batch, V])`. A token without a row is read as NaN.

    Raises:
        ValueError: if the embedding is not such a table, or has fewer rows than there are logits (when stepping).

    Example:
        >>> import jax
        >>> from rnn_jax import gru
        >>> cell, embedding = gru(5), jnp.eye(5)
        >>> params = cell.init(jax.random.key(0), 5)
        >>> carry, logits = token_step(cell, params, embedding)(cell.init_carry(params, (2,)), jnp.array([0, 4]))
        >>> logits.shape
        (2, 5)
    """
    checks.is_cell(cell)
    table = jnp.asarray(embedding)
    if table.ndim != 2 or not jnp.issubdtype(table.dtype, jnp.floating):
        raise ValueError(f"`embedding` must be a floating table [N, E], got {checks.describe(table)}")
    if tree.per_step(params):
        raise ValueError("`params` must not hold noise of single steps, from `cell.perturb`")
    prepared = cell.prepare(params) if isinstance(cell, Cell) else params

    def step(carry: Carry, tokens: Array) -> tuple[Carry, Array]:
        x = table.at[tokens].get(mode="fill", fill_value=jnp.nan)
        carry, logits = stream_step(cell, prepared, carry, x)
        if logits.shape[-1] > table.shape[0]:
            raise ValueError(
                f"`embedding` must have a row for each of the {logits.shape[-1]} tokens of the logits, got "
                f"{table.shape[0]} rows"
            )
        return carry, logits

    return step
