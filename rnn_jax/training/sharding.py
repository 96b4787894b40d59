"""Many devices: how the state and the batches of a run lie on them. The step stays the one of `make_train_step`."""

import functools
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rnn_jax import checks
from rnn_jax.training.mesh import check_mesh, places_along_data
from rnn_jax.training.processes import same_everywhere
from rnn_jax.training.state import TrainState, copy_state
from rnn_jax.training.steps import Metrics, TrainStep

__all__ = ["Rule", "gathered", "on_mesh", "place_batch", "place_runs", "place_state", "state_sharding", "to_host"]

Rule = Literal["replicated", "fsdp"]
"""How parameters lie on the devices: whole on each, or in parts."""


def state_sharding(state: TrainState, mesh: Mesh, rule: Rule = "replicated", *, min_size: int = 2**14) -> TrainState:
    """Says how a state lies on a mesh.

    Parameters are on every device ("replicated"), or ("fsdp") each is split over "data" along its largest axis that
    divides; arrays with fewer than `min_size` elements, or without such an axis, are on every device. The state of the
    optimizer follows the same rule by shape, so that moments lie as their parameters do. The step and the key are on
    every device; a carry is split along its first axis, the batch.

    Args:
      state: the state, or the shapes of one (`jax.eval_shape`).
      mesh: from `make_mesh`.
      rule: see above.
      min_size: elements from which on "fsdp" splits an array.

    Returns:
      a `TrainState` that holds a `NamedSharding` for each array.

    Raises:
      ValueError: an argument makes no sense, or the batch of the carry does not divide.

    Example:
      >>> import optax
      >>> from rnn_jax.training import create_state, make_mesh
      >>> state = create_state({"w": np.ones((256, 64), np.float32)}, optax.sgd(0.1), jax.random.key(0))
      >>> print(state_sharding(state, make_mesh(), "fsdp").params["w"].spec)
      P('data', None)
    """
    check_mesh(mesh)
    checks.one_of("rule", rule, get_args(Rule))
    if min_size < 0:
        raise ValueError(f"`min_size` must be at least 0, got {min_size}")
    size = mesh.shape["data"]

    def weight(leaf: Any) -> NamedSharding:
        axes = [axis for axis, length in enumerate(leaf.shape) if length and length % size == 0]
        if rule == "replicated" or leaf.size < min_size or not axes:
            return NamedSharding(mesh, P())
        largest = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, P(*("data" if axis == largest else None for axis in range(leaf.ndim))))

    def row(path: Any, leaf: Any) -> NamedSharding:
        if leaf.ndim and leaf.shape[0] % size:
            where = jax.tree_util.keystr(path)
            raise ValueError(
                f"`state.carry`{where} must have a first axis, the batch, that {size} devices divide, got {leaf.shape}"
            )
        return NamedSharding(mesh, P("data") if leaf.ndim else P())

    everywhere: Any = NamedSharding(mesh, P())
    return TrainState(
        step=everywhere,
        params=jax.tree.map(weight, state.params),
        opt_state=jax.tree.map(weight, state.opt_state),
        key=everywhere,
        carry=jax.tree_util.tree_map_with_path(row, state.carry),
    )


def place_state(state: TrainState, mesh: Mesh, rule: Rule = "replicated", *, min_size: int = 2**14) -> TrainState:
    """Puts a state on a mesh. In a run of several processes each calls it with the same, whole state.

    Args:
      state: from `create_state`.
      mesh: from `make_mesh`.
      rule: see `state_sharding`.
      min_size: see `state_sharding`.

    Returns:
      an equal state in memory of its own, of which each device holds its part.

    Raises:
      ValueError: as `state_sharding`; or the processes do not have the same state.

    Example:
      >>> import optax
      >>> from rnn_jax.training import create_state, make_mesh
      >>> state = create_state({"w": np.ones((256, 64), np.float32)}, optax.sgd(0.1), jax.random.key(0))
      >>> mesh = make_mesh()
      >>> shards = place_state(state, mesh, "fsdp").params["w"].addressable_shards
      >>> shards[0].data.size * mesh.shape["data"]
      16384
    """
    shardings = state_sharding(state, mesh, rule, min_size=min_size)
    if jax.process_count() == 1:
        return jax.device_put(copy_state(state), shardings)  # a device that has it already would share its memory
    if not all(leaf.is_fully_addressable for leaf in jax.tree.leaves(state)):
        return jax.jit(lambda state: state, out_shardings=shardings)(state)
    same_everywhere("state", state)
    return jax.tree.map(_spread, state, shardings)


def place_runs(states: TrainState, mesh: Mesh) -> TrainState:
    """Puts the states of N runs on a mesh, each device its share of the runs. Train them by `on_mesh(step, mesh, 0)`.

    Args:
      states: from `create_states`, [N, ...].
      mesh: from `make_mesh`, in one process.

    Returns:
      equal states in memory of their own.

    Raises:
      ValueError: the devices along "data" do not divide N, or there are several processes.

    Example:
      >>> import optax
      >>> from rnn_jax.training import create_states, make_mesh, seed_keys
      >>> keys = seed_keys(0, 2 * jax.device_count())
      >>> states = create_states(lambda key: {"w": jax.random.normal(key)}, optax.sgd(0.1), keys)
      >>> print(place_runs(states, make_mesh()).params["w"].sharding.spec)
      P('data',)
    """
    check_mesh(mesh)
    if jax.process_count() > 1:
        raise ValueError(f"`states` of many runs are trained by one process, got {jax.process_count()} processes")
    size, runs = mesh.shape["data"], states.step.shape
    if not runs or runs[0] % size:
        raise ValueError(f"`states` must be of a multiple of {size} runs, as many as devices, got a step {runs}")
    return jax.device_put(copy_state(states), NamedSharding(mesh, P("data")))


def place_batch(batch: Any, mesh: Mesh, batch_axis: Any = None) -> Any:
    """Puts a batch on a mesh: rows are split over "data", and where there is more than one device along it, steps over
    "seq". In a run of several processes each gives its own rows (`local_rows`), with all steps.

    Args:
      batch: a pytree of arrays. Those with two axes or more are time-major [T, B, ...]; those with one are [B], such as
        lengths; scalars go everywhere.
      mesh: from `make_mesh`.
      batch_axis: says it otherwise: which axis is B, as a pytree that begins like `batch`, for example
        `Batch(data=1, lengths=0)`; 0 for an array [B, ...] without time, 1 for [T, B, ...], "all" for what goes whole
        to every device, the same in every process.

    Returns:
      the batch, of which each device holds its part.

    Raises:
      ValueError: the arrays do not agree in B, or the devices do not divide B or T.

    Example:
      >>> from rnn_jax.training import make_mesh
      >>> rows = 2 * jax.device_count()
      >>> place_batch((np.zeros((5, rows, 3)), np.zeros(rows)), make_mesh())[0].shape[0]
      5
    """
    check_mesh(mesh)
    leaves, structure = jax.tree_util.tree_flatten_with_path(batch)
    if batch_axis is None:
        axes = [1 if np.ndim(leaf) > 1 else 0 for _, leaf in leaves]
    else:
        axes = jax.tree.leaves(jax.tree.map(lambda axis, part: jax.tree.map(lambda _: axis, part), batch_axis, batch))
    axes = [np.ndim(leaf) if axis == "all" else axis for (_, leaf), axis in zip(leaves, axes, strict=True)]
    named = [(jax.tree_util.keystr(path), leaf, axis) for (path, leaf), axis in zip(leaves, axes, strict=True)]
    rows = {name or "batch": np.shape(leaf)[axis] for name, leaf, axis in named if np.ndim(leaf) > axis}
    if len(set(rows.values())) > 1:
        counts = ", ".join(f"{count} in {name}" for name, count in rows.items())
        raise ValueError(f"`batch` must hold arrays of one number of rows B, got {counts}; see `batch_axis`")
    places = places_along_data(mesh)
    for name, count in rows.items():
        if count % len(places):
            raise ValueError(
                f"`batch`{name} must have a multiple of {len(places)} rows, one device along 'data' each, got {count}"
            )
    return jax.tree.unflatten(structure, [_place(mesh, places, *array) for array in named])


def on_mesh(train_step: TrainStep, mesh: Mesh, batch_axis: Any = None) -> TrainStep:
    """A step for a state that lies on a mesh: it places the batch, and the new state lies as the old one did.

    Without the second part the partitioner chooses where the new parameters lie, and may choose otherwise.

    Args:
      train_step: from `make_train_step` or `make_tbptt_step`.
      mesh: from `make_mesh`.
      batch_axis: see `place_batch`.

    Returns:
      `step(state, batch)`, compiled once for each shape of batch; the memory of the state is reused. It raises
      `ValueError` for a state that is not on the mesh, and as `place_batch` does.

    Example:
      >>> import optax
      >>> from rnn_jax.training import create_state, make_mesh, make_train_step
      >>> tx, mesh = optax.sgd(0.25), make_mesh()
      >>> train_step = make_train_step(lambda p, batch, *, key, step: (((p["w"] - batch) ** 2).mean(), {}), tx)
      >>> state = place_state(create_state({"w": np.float32(1)}, tx, jax.random.key(0)), mesh)
      >>> state, metrics = on_mesh(train_step, mesh)(state, np.full(2 * jax.device_count(), 3, np.float32))
      >>> float(state.params["w"])
      2.0
    """
    check_mesh(mesh)
    programs: dict[Any, Callable[..., tuple[TrainState, Metrics]]] = {}

    def step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        leaves, structure = jax.tree.flatten(state)
        layout = tuple(leaf.sharding for leaf in leaves)
        if (program := programs.get(layout)) is None:
            for leaf in leaves:
                if not isinstance(leaf.sharding, NamedSharding) or leaf.sharding.mesh != mesh:
                    raise ValueError(f"`state` must lie on the mesh, from place_state, got an array on {leaf.sharding}")
            outputs = (jax.tree.unflatten(structure, layout), NamedSharding(mesh, P()))
            program = programs[layout] = jax.jit(train_step, donate_argnums=0, out_shardings=outputs)
        return program(state, place_batch(batch, mesh, batch_axis))

    return step


def to_host(tree: Any) -> Any:
    """Whole NumPy arrays, in every process, of arrays that lie on any devices: to write them or to go on with alone.

    Several processes all call it.

    Args:
      tree: a pytree of arrays; typed keys become their data.

    Returns:
      the same tree of NumPy arrays.

    Example:
      >>> to_host({"w": jax.numpy.ones(2)})
      {'w': array([1., 1.], dtype=float32)}
    """

    def one(leaf: Any) -> np.ndarray:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        if not leaf.is_fully_addressable and not leaf.is_fully_replicated:
            leaf = _everywhere(leaf, NamedSharding(leaf.sharding.mesh, P()))
        return np.asarray(leaf)

    return jax.tree.map(one, tree)


def gathered(loss_fn: Any, mesh: Mesh) -> Any:
    """A loss whose parameters are brought together once, before the loop over time reads them at every step.

    For states that are placed by the rule "fsdp": what is kept between steps stays split.

    Args:
      loss_fn: `LossFn` (or a `WindowLossFn`), with the parameters as its first argument.
      mesh: from `make_mesh`.

    Returns:
      the same function of parameters that every device holds in full.

    Example:
      >>> from rnn_jax.training import make_mesh
      >>> loss_fn = gathered(lambda p, batch, *, key, step: (p * batch, {}), make_mesh())
      >>> float(loss_fn(2.0, 3.0, key=None, step=0)[0])
      6.0
    """
    check_mesh(mesh)

    @functools.wraps(loss_fn)
    def on_whole(params: Any, *args: Any, **options: Any) -> Any:
        return loss_fn(jax.lax.with_sharding_constraint(params, NamedSharding(mesh, P())), *args, **options)

    return on_whole


@functools.partial(jax.jit, static_argnums=1)
def _everywhere(leaf: jax.Array, sharding: NamedSharding) -> jax.Array:
    return jax.lax.with_sharding_constraint(leaf, sharding)


def _spread(leaf: jax.Array, sharding: NamedSharding) -> jax.Array:
    """An array of all processes from one that each of them has."""
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = _spread(jax.random.key_data(leaf), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def _place(mesh: Mesh, places: range, name: str, leaf: Any, axis: int) -> jax.Array:
    """One array of a batch."""
    shape = list(np.shape(leaf))
    if len(shape) <= axis:
        spec, offset = P(), 0
    else:
        steps = "seq" if axis == 1 and mesh.shape["seq"] > 1 else None
        if steps and shape[0] % mesh.shape["seq"]:
            raise ValueError(
                f"`batch`{name} must have a multiple of {mesh.shape['seq']} steps, as many as devices along 'seq', "
                f"got {shape[0]}; pad it, and say so by `lengths`"
            )
        spec = P(*(steps, "data")[1 - axis :]) if axis < 2 else P(*[None] * axis, "data")
        each = shape[axis] // len(places)
        shape[axis], offset = each * mesh.shape["data"], each * places.start
    sharding = NamedSharding(mesh, spec)
    if jax.process_count() == 1:
        return jax.device_put(leaf, sharding)
    host = np.asarray(leaf)

    def part(index: Any) -> np.ndarray:
        if len(index) <= axis or (index[axis].start is None and offset == 0):
            return host[index]
        local = list(index)
        start, stop, _ = index[axis].indices(shape[axis])
        local[axis] = slice(start - offset, stop - offset)
        return host[tuple(local)]

    return jax.make_array_from_callback(tuple(shape), sharding, part)
