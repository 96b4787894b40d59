"""From a network in JAX to what is timed: a compiled step, on one device, or with its rows over several.

All peers in JAX share this code, so that they differ in the network alone.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import monitoring
from jax.extend.core import jaxprs_in_params
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks.problems import Problem, Tree, seeds

RATE = 1e-2
"""Learning rate of "update"."""


class Net(NamedTuple):
    """A network of a peer.

    Attributes:
        params: its parameters, in its own layout.
        apply: `(params, inputs, data) -> outputs`.
        read: parameters, or gradients in their place, under the names and in the layout of rnn_jax.
        batch_first: it takes and gives [B, T, ...].
    """

    params: Any
    apply: Callable[[Any, Tree, Tree], Any]
    read: Callable[[Any], Tree]
    batch_first: bool = False


class Stream(NamedTuple):
    """A network of a peer, one step at a time: `step(params, carry, x [1, I]) -> (carry, y [1, H])`."""

    params: Any
    carry: Any
    step: Callable[[Any, Any, Any], tuple[Any, Any]]


class Program(NamedTuple):
    """What a worker times.

    Attributes:
        run: one call; comes back when the results are there.
        results: the results of the first call, in the layout of rnn_jax.
        facts: what the compiler says of it.
    """

    run: Callable[[], Any]
    results: Tree
    facts: dict[str, Any]


class Compilations:
    """Counts what the backend compiles in this process."""

    def __init__(self) -> None:
        self.count = 0
        monitoring.register_event_duration_secs_listener(self._hear)

    def _hear(self, event: str, duration_secs: float, **_: Any) -> None:
        self.count += event == "/jax/core/compile/backend_compile_duration"


COMPILATIONS = Compilations()


def build(make: Callable[[Problem], Any], problem: Problem, variant: str, dtype: Any) -> Program:
    """The program of a case.

    Args:
        make: builds the peer's `Net`, or its `Stream`, from a problem.
        problem: what to compute.
        variant: "" for one device, "sharded" for rows (or networks) split over all devices, "one by one" for networks
            one after another.
        dtype: of all floating arrays.

    Returns:
        the program, compiled and called once.
    """
    kind = problem.case.program
    if kind == "stream":
        return _stream(make(problem), problem)
    if kind == "seeds":
        nets = [make(one) for one in seeds(problem)]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[net.params for net in nets])
        net = nets[0]._replace(params=stacked, read=lambda tree: _read_each(nets[0].read, tree, len(nets)))
    else:
        net = make(problem)
    net = net._replace(params=_arrays(net.params, dtype))
    inputs, data = (_laid_out(part, net.batch_first, dtype) for part in (problem.inputs, problem.data))
    if kind == "forward":
        return _forward(net, inputs, data)
    if kind == "update":
        return _update(net, problem, inputs, data, variant)
    step = _gradient(net, problem)
    if kind == "seeds" and variant == "one by one":
        return _one_by_one(step, net, inputs, data)
    if kind == "seeds":
        step = jax.vmap(step, in_axes=(0, None, None))
    arguments = (net.params, inputs, data)
    if variant == "sharded":
        step, arguments = _sharded(step, net, arguments, networks=kind == "seeds", mean=False)
    compiled, facts = compile_step(step, arguments)
    (_, ys), (params, others) = _first(compiled, arguments, facts)
    results = _results(net, problem, ys, params, others)
    if kind == "compile":
        return Program(lambda: _compile_anew(step, arguments), results, facts)
    return Program(lambda: jax.block_until_ready(compiled(*arguments)), results, facts)


def compile_step(step: Callable[..., Any], arguments: tuple[Any, ...], donate: tuple[int, ...] = ()) -> Any:
    """Compiles a step.

    Args:
        step: a function of arrays.
        arguments: what it will be called with.
        donate: arguments whose memory may be reused.

    Returns:
        the compiled step and what is known about it: seconds of tracing and of compiling; `flops` of its matrix
        products and `depth`, the iterations of loops that wait for each other, both counted in the traced program;
        `cost_flops` and `cost_bytes` of the compiler, which counts the inside of a loop once; temporary memory.
    """
    started = time.perf_counter()
    traced = jax.jit(step, donate_argnums=donate).trace(*arguments)
    lowered = traced.lower()
    ready = time.perf_counter()
    compiled = lowered.compile()
    facts = {"trace_s": ready - started, "compile_s": time.perf_counter() - ready}
    facts["flops"], facts["depth"] = products_and_depth(traced.jaxpr.jaxpr)
    costs, memory = compiled.cost_analysis() or {}, compiled.memory_analysis()
    facts |= {"cost_flops": costs.get("flops"), "cost_bytes": costs.get("bytes accessed")}
    facts["temp_bytes"] = getattr(memory, "temp_size_in_bytes", None)
    return compiled, facts


def products_and_depth(jaxpr: Any) -> tuple[float, int]:
    """Operations of the matrix products of a traced program, and its depth; of branches the larger counts.

    Loops of unknown length count as one iteration.

    Example:
        >>> a = jnp.ones((2, 3))
        >>> def step(c, x):
        ...     return c, x @ a
        >>> products_and_depth(jax.make_jaxpr(lambda xs: jax.lax.scan(step, 0, xs))(jnp.ones((5, 4, 2))).jaxpr)
        (240.0, 5)
    """
    flops, depth = 0.0, 0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            shared = np.prod([equation.invars[0].aval.shape[axis] for axis in contracted])
            flops += 2.0 * float(np.prod(equation.outvars[0].aval.shape) * shared)
            continue
        inside = list(jaxprs_in_params(params))
        if name == "linear_map":  # of ours: a function that is not traced yet
            leaves, count = [variable.aval for variable in equation.invars], params["count"]
            inside = [jax.make_jaxpr(params["function"])(tuple(leaves[:count]), tuple(leaves[count:]))]
        if name == "custom_linear_solve":
            inside = [params["jaxprs"].solve]
        parts = [products_and_depth(getattr(part, "jaxpr", part)) for part in inside]
        if not parts:
            continue
        join = max if name == "cond" else sum
        inner_flops, inner_depth = join(part[0] for part in parts), join(part[1] for part in parts)
        if name == "scan":
            inner_flops, inner_depth = params["length"] * inner_flops, params["length"] * max(inner_depth, 1)
        if name == "shard_map":
            inner_flops *= params["mesh"].size
        flops, depth = flops + inner_flops, depth + inner_depth
    return flops, depth


def _gradient(net: Net, problem: Problem) -> Callable[..., Any]:
    """`(params, inputs, data) -> ((loss, outputs), (gradients of params, of inputs))`."""
    is_text = problem.case.family == "char_lm"

    def loss(params: Any, inputs: Tree, data: Tree) -> tuple[Any, Any]:
        ys = net.apply(params, inputs, data)
        if is_text:
            return optax.softmax_cross_entropy_with_integer_labels(ys, data["targets"]).mean(), ys
        return (ys * data["weights"]).sum(), ys

    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)


def _forward(net: Net, inputs: Tree, data: Tree) -> Program:
    def outputs(params: Any, inputs: Tree) -> Any:
        return net.apply(params, inputs, data)

    compiled, facts = compile_step(outputs, (net.params, inputs))
    ys = _first(compiled, (net.params, inputs), facts)
    results = {"ys": _time_major(ys, net.batch_first)}
    return Program(lambda: jax.block_until_ready(compiled(net.params, inputs)), results, facts)


def _update(net: Net, problem: Problem, inputs: Tree, data: Tree, variant: str) -> Program:
    """A step of Adam. Its epsilon is large: with the usual one a first update is the sign of a gradient."""
    tx = optax.adam(RATE, eps=1e-4)
    gradient, arguments = _gradient(net, problem), (net.params, inputs, data)
    if variant == "sharded":
        gradient, arguments = _sharded(gradient, net, arguments, networks=False, mean=True)
    params, inputs, data = arguments

    def train(state: Any, inputs: Tree, data: Tree) -> tuple[Any, Any]:
        params, opt_state = state
        (loss, _), (grads, _) = gradient(params, inputs, data)
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    before = jax.tree.map(np.asarray, params)
    state = [jax.tree.map(jnp.copy, (params, tx.init(params)))]
    compiled, facts = compile_step(train, (state[0], inputs, data), donate=(0,))

    def run() -> Any:
        state[0], loss = compiled(state[0], inputs, data)
        return jax.block_until_ready(loss)

    started = time.perf_counter()
    loss = run()
    facts["first_call_s"] = time.perf_counter() - started
    moved = jax.tree.map(lambda old, new: (old - np.asarray(new)) / RATE, before, state[0][0])
    return Program(run, {"loss": np.asarray(loss), "update": net.read(moved)}, facts)


def _one_by_one(step: Callable[..., Any], net: Net, inputs: Tree, data: Tree) -> Program:
    """Networks one after another, through one compiled step."""
    count = jax.tree.leaves(net.params)[0].shape[0]
    each = [jax.tree.map(lambda leaf, i=i: leaf[i], net.params) for i in range(count)]
    compiled, facts = compile_step(step, (each[0], inputs, data))

    def run() -> Any:
        return jax.block_until_ready([compiled(params, inputs, data) for params in each])

    started = time.perf_counter()
    found = jax.tree.map(lambda *leaves: np.stack(leaves), *run())
    facts["first_call_s"] = time.perf_counter() - started
    (_, ys), (grads, others) = found
    return Program(run, {"ys": ys, "params": net.read(grads), "inputs": others}, facts)


def _stream(net: Stream, problem: Problem) -> Program:
    """One step from a sample on the host to an output on the host; the carry stays on the device, its memory reused."""
    step = jax.jit(net.step, donate_argnums=1)
    carry, ys, xs = [jax.tree.map(jnp.array, net.carry)], [], problem.inputs["xs"]
    params = jax.tree.map(jnp.asarray, net.params)

    def run(x: Any = xs[0]) -> np.ndarray:
        carry[0], y = step(params, carry[0], x)
        return np.asarray(y)

    started, before = time.perf_counter(), COMPILATIONS.count
    ys.append(run())
    facts = {"first_call_s": time.perf_counter() - started, "compilations": COMPILATIONS.count - before}
    ys += [run(x) for x in xs[1:]]
    return Program(run, {"ys": np.stack(ys)}, facts)


def _sharded(
    step: Callable[..., Any], net: Net, arguments: tuple[Any, Tree, Tree], networks: bool, mean: bool
) -> tuple[Any, Any]:
    """A step whose rows, or networks, are split over all devices; gradients of parameters are summed or averaged."""
    mesh = Mesh(np.array(jax.devices()), ("data",))
    params, inputs, data = arguments
    rows = P() if networks else (P("data") if net.batch_first else P(None, "data"))

    def spec(tree: Tree) -> Tree:
        return {name: P("data") if name == "lengths" and not networks else rows for name in tree}

    def local(params: Any, inputs: Tree, data: Tree) -> Any:
        (loss, ys), (grads, others) = step(params, inputs, data)
        if not networks:
            loss, grads = (jax.lax.pmean if mean else jax.lax.psum)((loss, grads), "data")
        return (loss, ys), (grads, others)

    split = P("data")
    ins = (split if networks else P(), spec(inputs), spec(data))
    outs = ((split, split), (split, split)) if networks else ((P(), rows), (P(), spec(inputs)))
    placed = tuple(
        jax.device_put(part, jax.tree.map(lambda one: NamedSharding(mesh, one), specs, is_leaf=lambda s: type(s) is P))
        for part, specs in zip((params, inputs, data), ins, strict=True)
    )
    return jax.shard_map(local, mesh=mesh, in_specs=ins, out_specs=outs, check_vma=False), placed


def _compile_anew(step: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Traces and compiles as for the first time."""
    jax.clear_caches()
    return jax.jit(lambda *args: step(*args)).lower(*arguments).compile()


def _first(compiled: Callable[..., Any], arguments: tuple[Any, ...], facts: dict[str, Any]) -> Any:
    started = time.perf_counter()
    found = jax.block_until_ready(compiled(*arguments))
    facts["first_call_s"] = time.perf_counter() - started
    return found


def _results(net: Net, problem: Problem, ys: Any, params: Any, inputs: Tree) -> Tree:
    """Outputs and gradients as rnn_jax has them; outputs on padding do not count."""
    several = problem.case.program == "seeds"
    ys = _time_major(ys, net.batch_first, several)
    if problem.case.family == "bidirectional":
        ys = np.where(problem.data["weights"] == 0, 0, ys)
    grads = {name: _time_major(value, net.batch_first, several) for name, value in inputs.items()}
    return {"ys": ys, "params": net.read(jax.tree.map(np.asarray, params)), "inputs": grads}


def _time_major(array: Any, batch_first: bool, several: bool = False) -> np.ndarray:
    """A sequence of a peer as [T, B, ...]; several networks stand before that."""
    first = 1 if several else 0
    return np.swapaxes(np.asarray(array), first, first + 1) if batch_first else np.asarray(array)


def _laid_out(tree: Tree, batch_first: bool, dtype: Any) -> Tree:
    """Arrays [T, B, ...] (and `lengths` [B]) on the device, as a peer wants them."""
    swap = {name: batch_first and name != "lengths" for name in tree}
    return {name: _arrays(np.swapaxes(value, 0, 1) if swap[name] else value, dtype) for name, value in tree.items()}


def _arrays(tree: Any, dtype: Any) -> Any:
    """Leaves on the device, floating ones in `dtype`."""

    def one(leaf: Any) -> Any:
        return jnp.asarray(leaf, dtype if np.issubdtype(leaf.dtype, np.floating) else leaf.dtype)

    return jax.tree.map(one, tree)


def _read_each(read: Callable[[Any], Tree], tree: Any, count: int) -> Tree:
    return {str(i): read(jax.tree.map(lambda leaf, i=i: leaf[i], tree)) for i in range(count)}
