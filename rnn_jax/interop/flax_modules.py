"""Our cells as modules of flax, linen and nnx."""

from typing import Any

import jax
from flax import linen as nn
from flax import nnx

from rnn_jax import checks
from rnn_jax.layers import layer
from rnn_jax.types import Array, Carry, Cell, Layer, LinearCell
from rnn_jax.unroll import Auto, Strategy


class LinenRNN(nn.Module):
    """A cell or layer of ours as a flax.linen module over whole sequences, time first.

        ys = LinenRNN(gru(64))(xs, lengths=lengths)         # in a compact module or in nn.Sequential
        carry, ys = LinenRNN(gru(64)).unroll(xs, carry)     # with the carry, to go on from it

    Its only variable is the parameters of the cell: `variables["params"]["cell"]` is what `cell.init` returns and what
    `unroll`, `stream_step` and `StreamPool` take. Noise (`with_dropout`) is drawn when `apply` is given the stream
    "dropout", `rngs={"dropout": key}`, and evaluates to its expectation without it.

    Attributes:
        cell: any cell, also a `stack`; or a `Layer`, such as `bidirectional(...)` or `layer(cell, reverse=True)`.
        strategy: how time is run, the `method` of `unroll`.

    Raises:
        ValueError: when called, if `cell` is none of these, and as `unroll`.

    Example:
        >>> import jax.numpy as jnp
        >>> from rnn_jax import gru
        >>> model = nn.Sequential([nn.Dense(6), LinenRNN(gru(8)), nn.Dense(2)])
        >>> xs = jnp.zeros((5, 4, 3))  # [T, B, I]
        >>> variables = model.init(jax.random.key(0), xs)
        >>> model.apply(variables, xs).shape, variables["params"]["layers_1"]["cell"].w_x.shape
        ((5, 4, 2), (6, 24))
    """

    cell: Cell | LinearCell | Layer
    strategy: Strategy = Auto()

    def __call__(self, xs: Array, carry: Carry | None = None, **options: Any) -> Array:
        """The outputs ys [T, *batch, O] of `unroll`, which says what the arguments are."""
        return self.unroll(xs, carry, **options)[1]

    @nn.compact
    def unroll(
        self,
        xs: Array,
        carry: Carry | None = None,
        *,
        lengths: Array | None = None,
        mask: Array | None = None,
        resets: Array | None = None,
    ) -> tuple[Carry, Array]:
        """The final carry and the outputs.

        Args:
            xs: [T, *batch, I].
            carry, lengths, mask, resets: as in `rnn_jax.unroll`.

        Returns:
            `(carry, ys)`, ys [T, *batch, O].
        """
        whole = _as_layer(self.cell)
        params = self.param("cell", whole.init, xs.shape[-1])
        if self.has_rng("dropout"):
            params = whole.perturb(self.make_rng("dropout"), params, xs.shape)
        return whole.apply(params, xs, carry=carry, lengths=lengths, mask=mask, resets=resets, method=self.strategy)


class NnxRNN(nnx.Module):
    """A cell or layer of ours as a flax.nnx module over whole sequences, time first.

        rnn = NnxRNN(gru(64), 8, rngs=nnx.Rngs(0))
        ys = rnn(xs, lengths=lengths)
        carry, ys = rnn.unroll(xs, carry)     # with the carry, to go on from it

    Attributes:
        cell: what it was made of.
        params: the parameters of the cell, each an `nnx.Param`. `rnn.cell_params()` are the arrays, which `unroll`,
            `stream_step` and `StreamPool` take.

    Raises:
        ValueError: if `cell` is neither a cell nor a layer, or `input_size` no positive integer; when called, as
            `unroll`.

    Example:
        >>> import jax.numpy as jnp
        >>> from rnn_jax import gru
        >>> rngs = nnx.Rngs(0)
        >>> model = nnx.Sequential(NnxRNN(gru(8), 3, rngs=rngs), nnx.Linear(8, 2, rngs=rngs))
        >>> model(jnp.zeros((5, 4, 3))).shape  # [T, B, I]
        (5, 4, 2)
    """

    def __init__(
        self, cell: Cell | LinearCell | Layer, input_size: int, *, strategy: Strategy = Auto(), rngs: nnx.Rngs
    ) -> None:
        """Draws the parameters.

        Args:
            cell: any cell, also a `stack`; or a `Layer`, such as `bidirectional(...)`.
            input_size: I.
            strategy: how time is run, the `method` of `unroll`.
            rngs: its stream "params" initialises the cell.
        """
        whole = _as_layer(cell)
        checks.positive("input_size", input_size)
        self.cell = nnx.static(cell)
        self.strategy = nnx.static(strategy)
        self.params = nnx.data(jax.tree.map(nnx.Param, whole.init(rngs.params(), input_size)))

    def cell_params(self) -> Any:
        """The parameters as the cell takes them: arrays, and no variables."""
        return jax.tree.map(lambda one: one[...], self.params, is_leaf=lambda one: isinstance(one, nnx.Variable))

    def __call__(self, xs: Array, carry: Carry | None = None, **options: Any) -> Array:
        """The outputs ys [T, *batch, O] of `unroll`, which says what the arguments are."""
        return self.unroll(xs, carry, **options)[1]

    def unroll(
        self,
        xs: Array,
        carry: Carry | None = None,
        *,
        lengths: Array | None = None,
        mask: Array | None = None,
        resets: Array | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Carry, Array]:
        """The final carry and the outputs.

        Args:
            xs: [T, *batch, I].
            carry, lengths, mask, resets: as in `rnn_jax.unroll`.
            rngs: its stream "dropout" draws the noise of the cell (`with_dropout`); without it, noise is expectation.

        Returns:
            `(carry, ys)`, ys [T, *batch, O].
        """
        whole, params = _as_layer(self.cell), self.cell_params()
        if rngs is not None:
            params = whole.perturb(rngs.dropout(), params, xs.shape)
        return whole.apply(params, xs, carry=carry, lengths=lengths, mask=mask, resets=resets, method=self.strategy)


def _as_layer(cell: Any) -> Layer:
    return cell if isinstance(cell, Layer) else layer(cell)
