"""The code of docs/coming_from.md runs, and both sides of it say the same numbers."""

import os
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

PAGE = Path(__file__).parents[2] / "docs" / "coming_from.md"
EXPORT = PAGE.with_name("export.md")
LENGTHS = [7, 10, 1, 4]
RNG = np.random.default_rng(5)


def run(*markers: str, page: Path = PAGE) -> dict[str, Any]:
    """The names that the blocks of the page leave behind, run one after another."""
    names: dict[str, Any] = {}
    for marker in markers:
        match = re.search(rf"<!-- {marker} -->\n```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        assert match, f"there is no block marked {marker!r}"
        exec(compile(match[1], f"{page.name}, {marker}", "exec"), names)
    return names


def close(ours: Any, theirs: Any) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_the_classifier_of_torch_says_the_same() -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    names = run("torch", "torch, ours")
    tokens = RNG.integers(0, 50, (4, 10))
    theirs = names["module"](torch.tensor(tokens), torch.tensor(LENGTHS)).detach().numpy()

    @jax.numpy_rank_promotion("allow")  # as it is for users
    def classify(tokens: np.ndarray) -> jax.Array:
        return names["classify"](names["params"], jnp.asarray(tokens.T), jnp.array(LENGTHS))

    assert np.ptp(theirs, axis=0).min() > 1e-3  # rows differ, so that an order of rows or steps could be seen
    close(classify(tokens), theirs)
    unread = np.where(np.arange(10) < np.array(LENGTHS)[:, None], tokens, 0)
    close(classify(unread), theirs)


def test_the_flat_weights_of_cudnn_say_the_same() -> None:
    names = run("cudnn")
    xs = RNG.normal(size=(10, 4, 8)).astype(np.float32)
    lengths, zeros = jnp.array(LENGTHS, jnp.int32), jnp.zeros((4, 4, 16))
    (_, (_, backward)), ys = names["states"](xs, lengths)
    with jax.numpy_rank_promotion("allow"):
        for blob in (names["blob"], jnp.asarray(names["again"])):
            arrays = names["rnn"].unpack_lstm_weights(blob, **names["options"])
            theirs, h, _ = names["rnn"].lstm_ref(xs.swapaxes(0, 1), zeros, zeros, *arrays, lengths, 8, 16, 2, 0.0, True)
            close(ys.swapaxes(0, 1), theirs)
            close(backward.h, h[3])


def test_the_layer_of_flax_says_the_same() -> None:
    names = run("flax", "flax, ours")
    xs = RNG.normal(size=(4, 10, 8)).astype(np.float32)
    carry, ys = names["flax_states"](xs, jnp.array(LENGTHS))
    ours, our_ys = names["states"](xs.swapaxes(0, 1), jnp.array(LENGTHS))
    close(ours, carry)
    real = np.arange(10)[:, None] < np.array(LENGTHS)
    close(np.asarray(our_ys)[real], np.asarray(ys).swapaxes(0, 1)[real])
    assert not np.asarray(our_ys)[~real].any()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("blocks", [("keras", "keras, ours"), ("keras", "keras, ours", "keras weights")], ids=len)
def test_the_layers_of_keras_say_the_same(
    blocks: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.environ.setdefault("KERAS_BACKEND", "jax")
    pytest.importorskip("keras")
    monkeypatch.chdir(tmp_path)
    with jax.numpy_rank_promotion("allow"):  # keras broadcasts
        names = run(*blocks)
        xs = RNG.normal(size=(4, 10, 8)).astype(np.float32)
        close(names["states"](xs.swapaxes(0, 1)), names["keras_states"](xs))


def test_the_core_of_haiku_says_the_same() -> None:
    pytest.importorskip("haiku")
    names = run("haiku", "haiku, ours")
    xs = jnp.asarray(RNG.normal(size=(10, 4, 8)), jnp.float32)
    ys, state = names["network"].apply(names["haiku_params"], xs)
    carry, our_ys = names["states"](xs)
    close(our_ys, ys)
    close(carry.c, state.cell)


def test_the_onnx_file_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    monkeypatch.chdir(tmp_path)
    names = run("onnx", page=EXPORT)
    assert len(names["streamed"]) == 20
