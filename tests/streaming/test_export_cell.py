"""An exported cell gives the numbers of the cell, in processes that know nothing of it."""

import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import MAIN, Case, assert_close, by_hand, make_params, make_xs, over
from jax import export

from rnn_jax import bidirectional, dense, gru, lru, lstm, stack, unroll
from rnn_jax.streaming import export_cell, load_exported

STACK = Case("stack", stack(lstm(4), lru(3), dense(2)), "", {})

STRANGER = """
import sys
path, xs_file, ys_file = sys.argv[1:]
sys.path.insert(0, path)
import numpy as np
from rnn_jax_export import load_exported

model = load_exported(path)
xs = np.load(xs_file)
carry, ys = model.init_carry(xs.shape[1]), []
for x in xs[:2]:
    carry, y = model.step(carry, x)
    ys.append(y)
carry, chunk = model.unroll(carry, xs[2:5], np.array([3, 3, 1]))
carry, y = model.step(carry, xs[5])
carry, rest = model.unroll(carry, xs[6:])
foreign = [name for name in sys.modules if name.split(".")[0] in ("rnn_jax", "flax", "optax", "experiments")]
assert not foreign, foreign
np.savez(ys_file, ys=np.concatenate([np.stack(ys), chunk, np.asarray(y)[None], rest]), **carry)
"""


def test_a_fresh_process_runs_it_without_the_code_that_made_it(tmp_path: Path) -> None:
    cell = STACK.cell
    params = cell.init(jax.random.key(0), 3)
    path = tmp_path / "model.zip"
    export_cell(cell, params, path, input_size=3)
    xs = np.random.default_rng(0).normal(size=(9, 3, 3)).astype(np.float32)
    np.save(tmp_path / "xs.npy", xs)
    command = [sys.executable, "-c", STRANGER, str(path), str(tmp_path / "xs.npy"), str(tmp_path / "ys.npz")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    got = np.load(tmp_path / "ys.npz")
    mask = np.ones((9, 3), bool)
    mask[3:5, 2] = False
    carry, expected = unroll(cell, params, jnp.asarray(xs), mask=jnp.asarray(mask))
    np.testing.assert_allclose(got["ys"], expected, rtol=1e-5, atol=1e-6)
    for name, leaf in {"0/h": carry[0].h, "0/c": carry[0].c, "1": carry[1]}.items():
        np.testing.assert_allclose(got[name], leaf, rtol=1e-5, atol=1e-6)


@over([*MAIN, STACK])
def test_every_cell_can_be_exported(case: Case, x64: None, tmp_path: Path) -> None:
    params, xs = make_params(case), make_xs(case)
    expected_carry, expected = by_hand(case, params, xs, lengths=(6, 4, 1, 6))
    export_cell(case.cell, params, tmp_path / "cell", input_size=case.input_size, space=case.space, dtype=jnp.float64)
    model = load_exported(tmp_path / "cell")
    carry, y = model.step(model.init_carry(4), xs[0])
    carry, ys = model.unroll(carry, xs[1:], [5, 3, 0, 5])
    assert_close(jnp.concatenate([y[None], ys]), expected, rtol=1e-11)
    leaves = [leaf for _, leaf in jax.tree.leaves_with_path(expected_carry)]
    assert_close(list(dict(carry)[name] for name in model.manifest["carry"]), leaves, rtol=1e-11)


def test_jax_alone_can_read_it(tmp_path: Path) -> None:
    """What a program does that has not even the loader."""
    cell = gru(4)
    params = cell.init(jax.random.key(0), 3)
    export_cell(cell, params, tmp_path / "model.zip", input_size=3)
    with zipfile.ZipFile(tmp_path / "model.zip") as file:
        manifest = json.loads(file.read("manifest.json"))
        step = export.deserialize(bytearray(file.read("step.jaxexport")))
        arrays = {
            name: np.frombuffer(file.read(f"params/{name}"), spec["dtype"]).reshape(spec["shape"])
            for name, spec in manifest["params"].items()
        }
    x = np.random.default_rng(0).normal(size=(1, 2, 3)).astype(np.float32)
    carry, y = step.call(arrays, {"carry": np.zeros((2, 4), np.float32)}, x[0])
    np.testing.assert_allclose(y, unroll(cell, params, x)[1][0], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(carry["carry"], y)
    assert manifest["carry"] == {"carry": {"shape": [4], "dtype": "float32"}}
    assert manifest["output"] == {"shape": [4], "dtype": "float32"}
    assert step.platforms == ("cpu", "cuda", "tpu")


def test_bfloat16_comes_back(tmp_path: Path) -> None:
    cell = lstm(4)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), cell.init(jax.random.key(0), 3))
    export_cell(cell, params, tmp_path / "model.zip", input_size=3, dtype=jnp.bfloat16)
    model = load_exported(tmp_path / "model.zip")
    xs = jax.random.normal(jax.random.key(1), (5, 2, 3), jnp.bfloat16)
    carry, ys = model.unroll(model.init_carry(2), xs)
    assert ys.dtype == jnp.bfloat16
    assert carry["h"].dtype == jnp.float32
    np.testing.assert_array_equal(np.asarray(ys, np.float32), np.asarray(unroll(cell, params, xs)[1], np.float32))


def test_equal_cells_make_equal_files_and_nothing_is_overwritten(tmp_path: Path) -> None:
    cell = gru(4)
    params = cell.init(jax.random.key(0), 3)
    for name in ("a", "b"):
        export_cell(cell, params, tmp_path / name, input_size=3)
    written = (tmp_path / "a").read_bytes()
    assert written == (tmp_path / "b").read_bytes()
    with pytest.raises(FileExistsError, match="a exists; export_cell overwrites nothing"):
        export_cell(cell, jax.tree.map(jnp.zeros_like, params), tmp_path / "a", input_size=3)
    assert (tmp_path / "a").read_bytes() == written


@pytest.mark.parametrize(
    ("cell", "options", "text"),
    [
        (bidirectional(gru(4), gru(4)), {}, "got a Layer, which is given whole sequences"),
        (gru(4), {"input_size": 2}, "must fit the cell: `xs` must have 3 features"),
        (gru(4), {"platforms": ("cuda", "cpus")}, "`platforms` must be one of 'cpu'.*did you mean 'cpu'"),
        (gru(4), {"platforms": ()}, "`platforms` must name at least one platform, got none"),
    ],
)
def test_what_cannot_be_exported(cell: Any, options: dict[str, Any], text: str, tmp_path: Path) -> None:
    params = gru(4).init(jax.random.key(0), 3)
    with pytest.raises(ValueError, match=text):
        export_cell(cell, params, tmp_path / "model.zip", **({"input_size": 3} | options))
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("artefact") / "model.zip"
    export_cell(STACK.cell, STACK.cell.init(jax.random.key(0), 3), path, input_size=3)
    return path


def test_damage_is_found_wherever_it_is(artefact: Path, tmp_path: Path) -> None:
    content, damaged = artefact.read_bytes(), tmp_path / "damaged.zip"
    intact = {name: zipfile.ZipFile(artefact).read(name) for name in zipfile.ZipFile(artefact).namelist()}
    found = unclear = 0
    for position in [*range(0, len(content), 211), *range(len(content) - 400, len(content))]:
        flipped = bytearray(content)
        flipped[position] ^= 0x5A
        damaged.write_bytes(flipped)
        try:
            load_exported(damaged)
        except ValueError as error:
            found += "`path` must be" in str(error)
            unclear += "`path` must be" not in str(error)
        else:  # a byte that says nothing, such as a date
            assert {name: zipfile.ZipFile(damaged).read(name) for name in intact} == intact
    assert found > 200
    assert not unclear
    for size in (0, 10, len(content) // 2, len(content) - 1):
        damaged.write_bytes(content[:size])
        with pytest.raises(ValueError, match="`path` must be an undamaged artefact of export_cell"):
            load_exported(damaged)


def rewrite(artefact: Path, target: Path, **changes: Any) -> Path:
    with zipfile.ZipFile(artefact) as file, zipfile.ZipFile(target, "w") as new:
        for name in file.namelist():
            data = file.read(name)
            if name == "manifest.json":
                data = json.dumps(json.loads(data) | changes).encode()
            new.writestr(name, data)
    return target


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"version": 2}, "of the format 'rnn_jax cell', version 1, got .*, version 2"),
        ({"format": "other"}, "of the format 'rnn_jax cell', version 1, got .* of 'other', version 1"),
        ({"platforms": ["tpu", "cuda"]}, "exported for this platform, cpu, got .* for tpu, cuda"),
        ({"input": {"shape": [3], "dtype": "float64"}}, "must not be float64 unless jax_enable_x64 is set"),
        ({"sha256": {"step.jaxexport": "0"}}, "step.jaxexport is not what was written"),
        ({"sha256": {"step": "0"}}, "an undamaged artefact of export_cell, got .*There is no item named 'step'"),
    ],
)
def test_artefacts_that_cannot_be_run_here(changes: Any, text: str, artefact: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=text):
        load_exported(rewrite(artefact, tmp_path / "changed.zip", **changes))


def test_functions_of_a_jax_that_is_not_understood(artefact: Path, tmp_path: Path) -> None:
    manifest = json.loads(zipfile.ZipFile(artefact).read("manifest.json"))
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(artefact) as file, zipfile.ZipFile(other, "w") as new:
        manifest["sha256"]["step.jaxexport"] = hashlib.sha256(b"???").hexdigest()
        for name in file.namelist():
            replaced = {"manifest.json": json.dumps(manifest | {"jax": "9.9"}).encode(), "step.jaxexport": b"???"}
            new.writestr(name, replaced.get(name) or file.read(name))
    with pytest.raises(ValueError, match=f"that this jax {jax.__version__} can read, got .* of jax 9.9"):
        load_exported(other)


def test_what_the_functions_are_given(artefact: Path) -> None:
    model = load_exported(artefact)
    carry = model.init_carry(2)
    for call, text in [
        (lambda: model.step(carry, np.ones(3)), r"`x` must be \[B, 3\], got shape \(3,\)"),
        (lambda: model.unroll(carry, np.ones((5, 2, 4))), r"`xs` must be \[T, B, 3\], got shape \(5, 2, 4\)"),
        (lambda: model.unroll(carry, np.ones((5, 2, 3)), [1.0, 2.0]), "`lengths` must be 2 integers, got float64"),
        (
            lambda: model.unroll(carry, np.ones((5, 2, 3)), [1]),
            r"`lengths` must be 2 integers, got int64 of shape \(1,\)",
        ),
        (lambda: model.step({"0/h": carry["0/h"]}, np.ones((2, 3))), r"must be a dict of \['0/h', '0/c', '1'\], got"),
        (lambda: model.step(list(carry), np.ones((2, 3))), "`carry` must be a dict of .*, got list"),
        (lambda: model.step(model.init_carry(3), np.ones((2, 3))), r"`carry` must have \[2, 4\] at 0/h, got \[3, 4\]"),
    ]:
        with pytest.raises(ValueError, match=text):
            call()
    np.testing.assert_array_equal(
        model.step(carry, np.ones((2, 3)))[1], model.step(carry, jnp.ones((2, 3), jnp.bfloat16))[1]
    )
