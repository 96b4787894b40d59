"""What every conversion of a recurrent network returns."""

from typing import NamedTuple

from rnn_jax.types import Cell, Layer, Params


class Converted(NamedTuple):
    """A network of another library as one of ours, with its weights.

    Attributes:
        model: a `Cell`, to be given to `unroll`; or a `Layer` if the network walks in both directions.
        params: the parameters of `model`.
    """

    model: Cell | Layer
    params: Params
