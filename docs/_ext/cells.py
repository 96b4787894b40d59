"""The gallery of cells: one function over the table `CELLS`. Costs are counted in the traced step, never typed."""

import functools
import inspect
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from _ext.docstrings import equation, prose, to_markdown
from _ext.files import remove_others, write
from rnn_jax import CELLS, Cell, LinearCell, as_cell, make_cell, stream_step
from rnn_jax.plotting import FAINT, PALETTE, save

INPUTS, UNITS, SPACE = 64, 128, 8
STEPS, NETWORKS = 200, 16
COMPLEX_PRODUCT = 4
NORMS = (1e-6, 30.0)
ELEMENTWISE = ("mul", "div", "integer_pow", "square")


class Cost(NamedTuple):
    """What a cell costs: numbers of parameters, of floats in the carry of one row, and multiply-adds of one step."""

    params: int
    carry: int
    products: int


def write_gallery(page: Path) -> None:
    """Writes the page and its pictures, `cells/NAME.png` beside it."""
    folder = page.parent / "cells"
    entries = []
    sources = [Path(__file__), *Path(str(inspect.getsourcefile(make_cell))).parent.glob("*.py")]
    newest = max(source.stat().st_mtime for source in sources)
    for name in CELLS:
        path = folder / f"{name}.png"
        if not path.is_file() or path.stat().st_mtime < newest:
            picture(name, path)
        entries.append(entry(name))
    remove_others(folder, "*.png", {f"{name}.png" for name in CELLS})
    write(page, "\n\n".join([INTRODUCTION, _table(), *entries]) + "\n")


INTRODUCTION = f"""(cell-gallery)=
# The cells

Every cell of `rnn_jax.CELLS`: its equations, what it costs, and what is left of a single input.

- **Parameters, carry and cost** are counted in the shapes and in the traced step, `project` and `readout` included, at
  many sizes, and the formulas fit all of them exactly. Numbers are for I = {INPUTS}, H = {UNITS}. A multiply-add is one
  of a matrix product or convolution, or an element-wise product; a complex product is four. `conv_lstm` is counted a
  pixel, with its 3 x 3 kernels. A complex number of a carry is two.
- **Parallel in time** says that the recurrence is linear in the carry, so that `Associative()` and `Sharded()` take all
  steps at once. `Newton()` does so for any cell, by iterations.
- **Impulse response**: {NETWORKS} networks of 64 units as they come from `init` read 1 at step 0 and then zeros; shown
  is the difference to reading zeros only. Left, eight outputs of one network; right, the norm of the whole carry
  and of the output, medians with quartiles. `conv_lstm` reads the 1 in the middle of 9 x 9 pixels. The memory
  of `m_lstm` is read by a query made of the input, so zeros read nothing."""


def entry(name: str) -> str:
    """The entry of a cell."""
    doc = CELLS[name].__doc__ or ""
    found, written = cost(name, INPUTS, UNITS), formulas(name)
    rows = [
        ("parameters", found.params, written.params),
        ("carry, floats", found.carry, written.carry),
        ("multiply-adds a step", found.products, written.products),
    ]
    summary = inspect.cleandoc(doc).split("\n\n")[0]
    references = to_markdown("References:\n" + "\n".join(f"    {line}" for line in _references(doc))).split("\n\n")[1]
    return "\n\n".join(
        [
            f"## {name}",
            prose(summary),
            f"```text\n{equation(doc)}\n```",
            f"| | I = {INPUTS}, H = {UNITS} | |\n|---|---|---|\n"
            + "\n".join(f"| {what} | {number:,} | {formula} |" for what, number, formula in rows)
            + f"\n| parallel in time | {'yes' if is_linear(name) else 'by `Newton()` only'} | |",
            f"![What is left of one input in {name}: eight outputs, and norms of carry and output](cells/{name}.png)",
            f"{references} Options and docstring: [`rnn_jax.{name}`](#rnn_jax.{name}).",
        ]
    )


def _table() -> str:
    lines = [
        f"| cell, I = {INPUTS}, H = {UNITS} | parameters | carry | multiply-adds a step | parallel in time |",
        "|---|--:|--:|--:|---|",
    ]
    for name in CELLS:
        found = cost(name, INPUTS, UNITS)
        numbers = " | ".join(f"{number:,}" for number in found)
        lines.append(f"| [`{name}`](#{name.replace('_', '-')}) | {numbers} | {'yes' if is_linear(name) else ''} |")
    return "\n".join(lines)


def _references(doc: str) -> list[str]:
    lines = inspect.cleandoc(doc).splitlines()
    start = lines.index("References:") + 1
    return [line.strip() for line in itertools.takewhile(lambda line: line.startswith(" "), lines[start:])]


def is_linear(name: str) -> bool:
    """Whether a cell of the table is a `LinearCell`."""
    return isinstance(CELLS[name](4), LinearCell)


@functools.cache
def cost(name: str, input_size: int, hidden_size: int) -> Cost:
    """Counts what one step of one row costs, by tracing it; for a convolution, of one pixel far from the border."""
    cell = _cell(name, hidden_size)
    space = (SPACE,) * cell.spatial_axes
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = jax.eval_shape(lambda key: cell.init(key, input_size), key)
    prepared = jax.eval_shape(cell.prepare, params)
    carry = jax.eval_shape(lambda params: cell.init_carry(params, space), params)
    x = jax.ShapeDtypeStruct((*space, input_size), jnp.float32)

    def step(params: Any, carry: Any, x: Any) -> Any:
        carry, h = cell.step(params, carry, cell.project(params, x))
        return carry, cell.readout(params, h, x)

    pixels = SPACE ** len(space)
    products = count_products(jax.make_jaxpr(step)(prepared, carry, x).jaxpr)
    return Cost(_floats(params), _floats(carry) // pixels, products // pixels)


def _cell(name: str, hidden_size: int) -> Cell:
    cell = CELLS[name](hidden_size)
    return as_cell(cell) if isinstance(cell, LinearCell) else cell


def _floats(tree: Any) -> int:
    return sum(leaf.size * (1 + jnp.iscomplexobj(leaf)) for leaf in jax.tree.leaves(tree))


def count_products(jaxpr: Any) -> int:
    """The multiply-adds of a program: of matrix products, convolutions and element-wise products, also in its calls."""
    total = 0
    for eqn in jaxpr.eqns:
        out = eqn.outvars[0].aval
        each = COMPLEX_PRODUCT if jnp.issubdtype(getattr(out, "dtype", None), jnp.complexfloating) else 1
        name = eqn.primitive.name
        if name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            total += each * out.size * int(np.prod([eqn.invars[0].aval.shape[axis] for axis in contracted]))
        elif name == "conv_general_dilated":
            kernel, numbers = eqn.invars[1].aval, eqn.params["dimension_numbers"]
            total += each * out.size * kernel.size // kernel.shape[numbers.rhs_spec[0]]
        elif name in ELEMENTWISE:
            total += each * out.size
        inner = [leaf for leaf in jax.tree.leaves(dict(eqn.params), is_leaf=_is_jaxpr) if _is_jaxpr(leaf)]
        counts = [count_products(getattr(one, "jaxpr", one)) for one in inner]
        total += max(counts, default=0) if name == "cond" else sum(counts)
    return total


def _is_jaxpr(value: Any) -> bool:
    return hasattr(value, "eqns")


class Formulas(NamedTuple):
    """The fields of `Cost` as polynomials in I and H; empty where none fits exactly."""

    params: str
    carry: str
    products: str


@functools.cache
def formulas(name: str) -> Formulas:
    """Fits the costs at nine sizes."""
    sizes = [(i, h) for i in (6, 10, 22) for h in (8, 16, 40)]
    counts = np.array([cost(name, i, h) for i, h in sizes], float)
    terms: list[tuple[str, Callable[[int, int], int]]] = [
        ("I H", lambda i, h: i * h),
        ("H²", lambda i, h: h * h),
        ("I", lambda i, h: i),
        ("H", lambda i, h: h),
        ("", lambda i, h: 1),
    ]
    design = np.array([[term(i, h) for _, term in terms] for i, h in sizes], float)
    texts = []
    for column in counts.T:
        factors = np.rint(np.linalg.lstsq(design, column, rcond=None)[0]).astype(int)
        exact = np.array_equal(design @ factors, column)
        written = [
            f"{'' if f == 1 and term else f} {term}".strip() for f, (term, _) in zip(factors, terms, strict=True) if f
        ]
        texts.append(" + ".join(written).replace("+ -", "- ") if exact else "")
    return Formulas(*texts)


def impulse_response(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is left of an input of 1 at step 0, in networks of 64 units with one input.

    Returns:
        Outputs [T, 64] of the first network (`conv_lstm`: of the pixel in the middle), the norm of the difference in
        the carry [networks, T], and in the output.
    """
    cell = _cell(name, 64)
    space = (9,) * cell.spatial_axes
    middle = (4,) * cell.spatial_axes
    xs = jnp.zeros((STEPS, 2, *space, 1)).at[(0, 0, *middle)].set(1.0)  # a row with the impulse, a row without

    def run(key: Any) -> tuple[Any, Any, Any]:
        params = cell.prepare(cell.init(key, 1))

        def step(carry: Any, x: Any) -> tuple[Any, Any]:
            carry, y = stream_step(cell, params, carry, x)
            leaves = [(leaf[0] - leaf[1]).ravel() for leaf in jax.tree.leaves(carry)]
            norms = [jnp.linalg.norm(jnp.concatenate(leaves)), jnp.linalg.norm(y[0] - y[1])]
            return carry, (y[(0, *middle)] - y[(1, *middle)], *norms)

        return jax.lax.scan(step, cell.init_carry(params, (2, *space)), xs)[1]

    quick = {"xla_backend_optimization_level": 0}  # compiling is what takes time
    ys, carry, output = jax.jit(jax.vmap(run), compiler_options=quick)(jax.random.split(jax.random.key(0), NETWORKS))
    return np.asarray(ys[0]), np.asarray(carry), np.asarray(output)


def picture(name: str, path: Path) -> None:
    """Draws the impulse response of a cell."""
    ys, carry, output = impulse_response(name)
    figure = Figure(figsize=(8, 2.4), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2)
    left.plot(ys[:40, :8], linewidth=1.2)
    left.set(xlabel="step", ylabel="output", title=f"{name}: eight outputs")
    for values, colour, style, label in ((carry, PALETTE[0], "-", "carry"), (output, PALETTE[1], "--", "output")):
        low, middle, high = np.percentile(np.maximum(values, NORMS[0] / 10), (25, 50, 75), axis=0)
        right.fill_between(range(STEPS), low, high, color=colour, alpha=0.2, linewidth=0)
        right.plot(middle, color=colour, linestyle=style, linewidth=1.8, label=label)
    right.set(xlabel="step", ylabel="norm", yscale="log", xlim=(-2, STEPS), ylim=NORMS, title="carry and output")
    right.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    for ax in (left, right):
        ax.grid(color=FAINT, linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)
    save(figure, path)
