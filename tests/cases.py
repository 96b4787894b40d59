"""One table of all cells for the property tests: every row of `CELLS`, and the options that take another path.

A new row of `CELLS` is picked up by itself; it needs an oracle of its name in `tests/oracles.py`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from rnn_jax.cells import CELLS, conv_lstm, elman, gru, ind_rnn, lru, lstm, m_lstm, orthogonal_rnn, s5, s_lstm, sh_plrnn
from rnn_jax.cells._template import leaky
from rnn_jax.cells.rg_lru import rg_lru
from rnn_jax.types import Cell, LinearCell
from rnn_jax.unroll import stream_step, unroll

STEPS, BATCH, INPUT, HIDDEN = 6, 4, 3, 4

SPACE = {"conv_lstm": (3, 4)}
"""Spatial axes, for the cells of `CELLS` that need some."""

STABILISED = {"s_lstm": ("h",), "m_lstm": ()}
"""Cells that keep a factor exp(m) out of their carry, and the leaves of it that are not scaled."""


class Case(NamedTuple):
    """A row: a cell, the oracle it must equal and the options that the oracle needs."""

    name: str
    cell: Cell | LinearCell
    oracle: str
    options: dict[str, Any]
    input_size: int = INPUT
    space: tuple[int, ...] = ()

    def __repr__(self) -> str:
        return self.name


MAIN = [Case(name, build(HIDDEN), name, {}, space=SPACE.get(name, ())) for name, build in CELLS.items()]
MAIN.append(Case("leaky", leaky(HIDDEN), "leaky", {}))

VARIANTS = [
    Case("elman_relu", elman(HIDDEN, activation=jax.nn.relu), "elman", {"activation": oracles.relu}),
    Case("ind_rnn_tanh", ind_rnn(HIDDEN, activation=jnp.tanh), "ind_rnn", {"activation": np.tanh}),
    Case("lstm_peephole", lstm(HIDDEN, peephole=True), "lstm", {}),
    Case("lstm_projection", lstm(HIDDEN, projection=2), "lstm", {}),
    Case("lstm_coupled", lstm(HIDDEN, coupled=True), "lstm", {"coupled": True}),
    Case("lstm_layer_norm", lstm(HIDDEN, layer_norm=True), "lstm", {}),
    Case("lstm_clip", lstm(HIDDEN, cell_clip=0.2), "lstm", {"cell_clip": 0.2}),
    Case("lstm_peephole_coupled", lstm(HIDDEN, peephole=True, coupled=True), "lstm", {"coupled": True}),
    Case(
        "lstm_everything",
        lstm(HIDDEN, peephole=True, projection=3, coupled=True, layer_norm=True, cell_clip=0.3),
        "lstm",
        {"coupled": True, "cell_clip": 0.3},
    ),
    Case("gru_before", gru(HIDDEN, reset="before"), "gru", {"reset": "before"}),
    Case("lru_state", lru(HIDDEN, state_size=5), "lru", {}),
    Case("lru_diagonal_skip", lru(HIDDEN), "lru", {}, input_size=HIDDEN),
    Case("s5_state", s5(HIDDEN, state_size=3), "s5", {}),
    Case("s5_diagonal_skip", s5(HIDDEN), "s5", {}, input_size=HIDDEN),
    Case("rg_lru_square", rg_lru(HIDDEN), "rg_lru", {}, input_size=HIDDEN),
    Case("s_lstm_heads", s_lstm(HIDDEN, num_heads=2), "s_lstm", {"num_heads": 2}),
    Case("m_lstm_heads", m_lstm(HIDDEN, num_heads=2), "m_lstm", {"num_heads": 2}),
    Case("sh_plrnn_plain", sh_plrnn(HIDDEN, clipped=False), "sh_plrnn", {"clipped": False}),
    Case("conv_lstm_signal", conv_lstm(HIDDEN, kernel_size=(2,)), "conv_lstm", {}, space=(5,)),
    Case("orthogonal_cayley", orthogonal_rnn(HIDDEN, transform="cayley"), "orthogonal_rnn", {"transform": "cayley"}),
]

CASES = MAIN + VARIANTS
LINEAR = [case for case in CASES if isinstance(case.cell, LinearCell)]

SHIFT = {"lambda_re": -1.0, "decay": -3.0, "b_gates": 0.5, "scale_x": 1.0, "scale_h": 1.0, "scale_c": 1.0}
"""Where the random values of some parameters are centred, to keep them in the range in which they live."""


def over(cases: list[Case]) -> Any:
    """Parametrises a test over cases."""
    return pytest.mark.parametrize("case", cases, ids=repr)


def find_oracle(name: str) -> Callable[..., oracles.Result]:
    """The oracle of a cell, or a failure that says what to add."""
    oracle = getattr(oracles, name, None)
    if oracle is None:
        pytest.fail(
            f"the cell {name!r} of CELLS has no oracle: add a function `{name}(p, xs) -> (ys, carry)` to "
            "tests/oracles.py, a float64 NumPy loop written from the equations of its docstring"
        )
    return oracle


def _random(case: Case, shapes: Any, dtype: Any, seed: int) -> Any:
    """Random values everywhere, so that nothing hides behind zeros."""
    rng = np.random.default_rng(seed)

    def one(path: Any, leaf: Any) -> jax.Array:
        name = getattr(path[-1], "name", "") if path else ""
        value = 0.5 * rng.standard_normal(leaf.shape)
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            kind = jnp.complex128 if dtype == jnp.float64 else jnp.complex64
            return jnp.asarray(value + 0.5j * rng.standard_normal(leaf.shape), kind)
        if name == "n":  # the normaliser of a stabilised cell is positive, wherever it comes from real steps
            return jnp.asarray(np.abs(value) + 0.5, dtype)
        if case.oracle == "orthogonal_rnn" and name == "b":  # modReLU jumps at 0 where its bias is positive
            return jnp.asarray(-0.2 * np.abs(value), dtype)
        return jnp.asarray(value + SHIFT.get(name, 0.0), dtype)

    return jax.tree_util.tree_map_with_path(one, shapes)


def make_params(case: Case, dtype: Any = jnp.float64, seed: int = 0) -> Any:
    """Random parameters of a case."""
    shapes = jax.eval_shape(lambda: case.cell.init(jax.random.key(0), case.input_size))
    return _random(case, shapes, dtype, seed)


def make_xs(case: Case, dtype: Any = jnp.float64, *, steps: int = STEPS, batch: int = BATCH, seed: int = 1) -> Any:
    """Random inputs [T, B, *space, I]."""
    shape = (steps, batch, *case.space, case.input_size)
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def make_carry(case: Case, params: Any, dtype: Any = jnp.float64, *, batch: int = BATCH, seed: int = 2) -> Any:
    """A random carry, unlike the initial one."""
    shapes = jax.eval_shape(lambda: case.cell.init_carry(params, (batch, *case.space)))
    return _random(case, shapes, dtype, seed)


def plain_carry(case: Case, carry: Any) -> list[np.ndarray]:
    """The leaves of a carry as oracles have them: without a stabiliser."""
    if case.oracle not in STABILISED:
        return [np.asarray(leaf) for leaf in jax.tree.leaves(carry)]
    factor = np.exp(np.asarray(carry.m))
    leaves = {k: np.asarray(v) for k, v in carry._asdict().items() if k != "m"}
    return [
        v if k in STABILISED[case.oracle] else v * factor.reshape(factor.shape + (1,) * (v.ndim - factor.ndim))
        for k, v in leaves.items()
    ]


def assert_close(got: Any, expected: Any, rtol: float = 1e-9, atol: float | None = None) -> None:
    """Two trees of arrays have one structure, and close values."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol if atol is None else atol)


class Everything(NamedTuple):
    """A value, the outputs it was computed from, and its gradients."""

    loss: Any
    carry: Any
    ys: Any
    grads: Any


def weigh(tree: Any) -> Any:
    """A number that depends on every value of a tree differently."""
    total = jnp.zeros(())
    for index, leaf in enumerate(jax.tree.leaves(tree)):
        parts = [leaf.real, leaf.imag] if jnp.iscomplexobj(leaf) else [leaf]
        for turn, part in enumerate(parts):
            weights = np.cos(1 + index + 2 * turn + np.arange(part.size)).reshape(part.shape)
            total = total + (jnp.asarray(weights, part.dtype) * part).sum().astype(total.dtype)
    return total


def _everything(cell: Any, params: Any, xs: Any, carry: Any, options: Any, reverse: bool, method: Any) -> Everything:
    def loss(params: Any, xs: Any, carry: Any) -> Any:
        after, ys = unroll(cell, params, xs, carry, **options, reverse=reverse, **method)
        return weigh((after, ys)), (after, ys)

    (value, (after, ys)), grads = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(params, xs, carry)
    return Everything(loss=value, carry=after, ys=ys, grads=grads)


_compiled = jax.jit(
    lambda cell, params, xs, carry, options, reverse, method: _everything(
        cell, params, xs, carry, options, reverse, {} if method is None else {"method": method}
    ),
    static_argnums=(0, 5, 6),
)


def everything(
    cell: Any, params: Any, xs: Any, carry: Any, *, reverse: bool = False, method: Any = None, **options: Any
) -> Everything:
    """`unroll` compiled, with a loss on all it returns, and its gradients by params, xs and carry."""
    return _compiled(cell, params, xs, carry, options, reverse, method)


def programs() -> int:
    """How many programs `everything` has compiled in this process."""
    return _compiled._cache_size()


run = jax.jit(unroll, static_argnames=("cell", "reverse", "method"))


def _advance(cell: Any, params: Any, carry: Any, xs: Any, ys: Any, t: Any, b: Any) -> tuple[Any, Any]:
    carry, y = stream_step(cell, params, carry, xs[t, b])
    return carry, ys.at[t, b].set(y)


_advance_compiled = jax.jit(_advance, static_argnums=(0,))
_row = jax.jit(lambda tree, b: jax.tree.map(lambda leaf: leaf[b], tree))
_stack = jax.jit(lambda trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees))


def by_hand(
    case: Case,
    params: Any,
    xs: Any,
    carry: Any = None,
    *,
    lengths: Any = None,
    mask: Any = None,
    resets: Any = None,
    reverse: bool = False,
) -> tuple[Any, Any]:
    """What `unroll` means: row by row, over the real steps only, afresh where a border is crossed between two of them.

    The others are not there: neither xs nor carry is ever touched at a step that is not real.
    """
    steps, batch = xs.shape[:2]
    real = np.ones((steps, batch), bool) if mask is None else np.array(mask)
    if lengths is not None:
        real &= np.arange(steps)[:, None] < np.asarray(lengths)[None]
    borders = np.zeros((steps, batch), bool) if resets is None else np.asarray(resets)
    initial = case.cell.init_carry(params, case.space)
    start = jax.tree.map(lambda leaf: jnp.stack([leaf] * batch), initial) if carry is None else carry
    out = jax.eval_shape(lambda: stream_step(case.cell, params, initial, xs[0, 0]))[1]
    ys = jnp.zeros((steps, batch, *out.shape), out.dtype)
    rows = []
    for b in range(batch):
        row = _row(start, b)
        order = [t for t in range(steps) if real[t, b]]
        last = steps - 1 if reverse else -1
        for t in reversed(order) if reverse else order:
            low, high = (t, last) if reverse else (last, t)
            if borders[low + 1 : high + 1, b].any():
                row = initial
            row, ys = _advance_compiled(case.cell, params, row, xs, ys, t, b)
            last = t
        rows.append(row)
    return _stack(rows), ys
