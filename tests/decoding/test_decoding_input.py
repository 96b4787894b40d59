"""What is wrong with the input of a decoder is said by name, before anything runs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax.cells import gru
from rnn_jax.decoding import beam_search, filter_logits, greedy, sample, token_step
from rnn_jax.dropout import with_dropout

TABLE = jnp.zeros((4, 4))
DEFAULTS: dict[str, Any] = {"start": [1, 2], "end": 0, "max_length": 3}
CARRY = {"h": jnp.zeros((2, 3))}


def table_step(carry: Any, last: Any) -> Any:
    return carry, TABLE[last]


def decoders(step: Any, carry: Any, options: dict[str, Any]) -> list[Any]:
    given = DEFAULTS | options
    return [
        lambda: greedy(step, carry, **given),
        lambda: sample(step, carry, jax.random.key(0), **given),
        lambda: beam_search(step, carry, **given, num_beams=2),
    ]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"end": 4}, r"`end` must be None or an integer in \[0, 4\), got int 4"),
        ({"end": -1}, r"`end` must be None or an integer in \[0, 4\), got int -1"),
        ({"end": True}, r"`end` must be None or an integer in \[0, 4\), got bool True"),
        ({"end": 0.0}, r"`end` must be None or an integer in \[0, 4\), got float 0.0"),
        ({"max_length": -1}, r"`max_length` must be an integer of at least 0, got int -1"),
        ({"max_length": 2.5}, r"`max_length` must be an integer of at least 0, got float 2.5"),
        ({"min_length": 4}, r"`min_length` must be at most max_length=3, got 4"),
        ({"min_length": -1}, r"`min_length` must be an integer of at least 0, got int -1"),
        ({"start": [1.0, 2.0]}, r"`start` must be integers, got float32 of shape \(2,\)"),
        ({"start": [1, -2]}, r"`start` must hold token ids of at least 0, got -2"),
        (
            {"start": [1, 2, 3]},
            r"`carry` must have the batch axes \(3,\) of `start` first, got shape \(2, 3\) at \['h'\]",
        ),
        ({"prefix": [[1, 4]]}, r"`prefix` must hold token ids in \[0, 4\), got 4"),
        ({"prefix": [[1, -1]]}, r"`prefix` must hold token ids in \[0, 4\), got -1"),
        ({"prefix": [[1.0, 2.0]]}, r"`prefix` must be integers, got float32 of shape \(1, 2\)"),
        ({"prefix": [1, 2]}, r"`prefix` must have the shape \(P, \*batch\) with the batch \(2,\), got \(2,\)"),
        ({"prefix": [[1, 2, 3]]}, r"`prefix` must have the shape \(P, \*batch\) with the batch \(2,\), got \(1, 3\)"),
        ({"prefix": [[1, 1]] * 4}, r"`prefix` must have at most max_length=3 steps, got 4"),
        ({"prefix_lengths": [1, 1]}, r"`prefix_lengths` needs a `prefix`, got None"),
        (
            {"prefix": [[1, 1]], "prefix_lengths": [1]},
            r"`prefix_lengths` must be integers of the shape \(2,\) of the batch, got int32 of shape \(1,\)",
        ),
        ({"prefix": [[1, 1]], "prefix_lengths": [1.0, 1.0]}, r"`prefix_lengths` must be integers of the shape"),
        ({"prefix": [[1, 1]], "prefix_lengths": [0, 2]}, r"`prefix_lengths` must lie in \[0, P\] with P=1, got 2"),
        ({"prefix": [[1, 1]], "prefix_lengths": [-1, 0]}, r"`prefix_lengths` must lie in \[0, P\] with P=1, got -1"),
    ],
)
def test_wrong_arguments_of_every_decoder(options: dict[str, Any], text: str) -> None:
    for decode in decoders(table_step, CARRY, options):
        with pytest.raises(ValueError, match=text):
            decode()


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (lambda c, last: c, r"`step` must return \(carry, logits\), got dict"),
        (
            lambda c, last: (c, TABLE[last].astype(int)),
            r"`step` must return floating logits \(\*batch, V\) .* got int32",
        ),
        (lambda c, last: (c, TABLE), r"`step` must return floating logits .*, got float32 of shape \(4, 4\)"),
        (lambda c, last: (c, TABLE[last][..., :0]), r"`step` must return floating logits .*, got float32 of shape"),
        (lambda c, last: (c, None), r"`step` must return floating logits .*, got NoneType None"),
        (lambda c, last: (c["h"], TABLE[last]), r"`step` must return a carry of the structure it got, PyTreeDef"),
        (
            lambda c, last: ({"h": c["h"].astype(jnp.bfloat16)}, TABLE[last]),
            r"`step` must return a carry like the one it got, at \['h'\] float32 of shape .*, got bfloat16 of shape",
        ),
        (
            lambda c, last: ({"h": c["h"][..., :2]}, TABLE[last]),
            r"`step` must return a carry like the one it got, at \['h'\] float32 .*3\), got float32 of shape .*2\)",
        ),
    ],
)
def test_wrong_steps(step: Any, text: str) -> None:
    for decode in decoders(step, CARRY, {}):
        with pytest.raises(ValueError, match=text):
            decode()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"num_beams": 0}, r"`num_beams` must be an integer of at least 1, got int 0"),
        ({"num_results": 0}, r"`num_results` must be an integer of at least 1, got int 0"),
        ({"num_results": 5}, r"`num_results` must be at most num_beams=4, got 5"),
        ({"num_groups": 0}, r"`num_groups` must be an integer of at least 1, got int 0"),
        ({"num_groups": 3}, r"`num_groups` must divide num_beams=4, got 3"),
        ({"no_repeat_ngram": -1}, r"`no_repeat_ngram` must be an integer of at least 0, got int -1"),
        ({"length_penalty": "wu"}, r"`length_penalty` must be a finite number, got str 'wu'"),
        ({"length_penalty": np.inf}, r"`length_penalty` must be a finite number, got inf"),
        ({"length_penalty": jnp.zeros(2)}, r"`length_penalty` must be a finite number, got float32 of shape \(2,\)"),
        ({"coverage_penalty": np.nan}, r"`coverage_penalty` must be a finite number, got nan"),
        ({"coverage_penalty": 0.5}, r"`coverage_penalty` needs `coverage`, \(carry\) -> .*, got None"),
        (
            {"coverage": lambda carry: jnp.zeros((2, 5))},
            r"`coverage` must return the shape \(\*batch, K, S\) with \(\*batch, K\) = \(2, 4\), got float32 of shape",
        ),
        ({"coverage": lambda carry: None}, r"`coverage` must return the shape .*, got NoneType None"),
        ({"diversity": 0.5}, r"`diversity` needs `num_groups` of at least 2, got 1"),
        ({"diversity": np.nan, "num_groups": 2}, r"`diversity` must be a finite number, got nan"),
    ],
)
def test_wrong_arguments_of_beam_search(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        beam_search(table_step, CARRY, **(DEFAULTS | {"num_beams": 4} | options))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"temperature": 0}, r"`temperature` must be a number above 0, got 0"),
        ({"temperature": -1.0}, r"`temperature` must be a number above 0, got -1.0"),
        ({"temperature": np.nan}, r"`temperature` must be a number above 0, got nan"),
        ({"temperature": True}, r"`temperature` must be a number above 0, got bool True"),
        ({"top_k": 0}, r"`top_k` must be None or an integer in \[1, 4\], got int 0"),
        ({"top_k": 5}, r"`top_k` must be None or an integer in \[1, 4\], got int 5"),
        ({"top_k": 2.0}, r"`top_k` must be None or an integer in \[1, 4\], got float 2.0"),
        ({"top_p": 0.0}, r"`top_p` must be a number in \(0, 1\], got 0.0"),
        ({"top_p": 1.1}, r"`top_p` must be a number in \(0, 1\], got 1.1"),
    ],
)
def test_wrong_filters(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        filter_logits(TABLE, **options)
    for max_length in (0, 3):
        with pytest.raises(ValueError, match=text):
            sample(table_step, CARRY, jax.random.key(0), **(DEFAULTS | {"max_length": max_length}), **options)


def test_wrong_logits_and_keys() -> None:
    with pytest.raises(ValueError, match=r"`logits` must be a floating array \[\*batch, features\], got int32"):
        filter_logits(jnp.arange(3))
    with pytest.raises(ValueError, match=r"`key` must be a PRNG key such as jax.random.key\(0\), got int 0"):
        sample(table_step, CARRY, 0, **DEFAULTS)  # pyrefly: ignore


def test_wrong_arguments_of_token_step() -> None:
    cell = gru(4)
    params = cell.init(jax.random.key(0), 3)
    with pytest.raises(ValueError, match=r"`cell` must be a Cell or a LinearCell, got the function gru"):
        token_step(gru, params, jnp.zeros((4, 3)))  # pyrefly: ignore
    with pytest.raises(ValueError, match=r"`embedding` must be a floating table \[N, E\], got int32 of shape \(4, 3\)"):
        token_step(cell, params, jnp.zeros((4, 3), jnp.int32))
    with pytest.raises(ValueError, match=r"`embedding` must be a floating table \[N, E\], got float32 of shape \(3,\)"):
        token_step(cell, params, jnp.zeros(3))
    step = token_step(cell, params, jnp.zeros((3, 3)))
    with pytest.raises(ValueError, match=r"`embedding` must have a row for each of the 4 tokens .*, got 3 rows"):
        greedy(step, cell.init_carry(params, (2,)), **DEFAULTS)
    noisy = with_dropout(cell, inputs=0.5)
    params = noisy.perturb(jax.random.key(1), noisy.init(jax.random.key(0), 3), (5, 2, 3))
    with pytest.raises(ValueError, match=r"`params` must not hold noise of single steps"):
        token_step(noisy, params, jnp.zeros((4, 3)))


def test_traced_values_out_of_range_get_stuck_and_do_no_harm() -> None:
    run = jax.jit(lambda prefix, lengths: greedy(table_step, CARRY, prefix=prefix, prefix_lengths=lengths, **DEFAULTS))
    decoded = run(jnp.array([[1, 7]]), jnp.array([5, 1]))
    np.testing.assert_array_equal(decoded.lengths, [2, 0])
    assert decoded.log_probs[1] == -np.inf
