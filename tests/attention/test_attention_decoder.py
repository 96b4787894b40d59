"""Decoders with attention against a NumPy loop, against themselves step by step, and against each row alone."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from comparing import close, jit, random_params

from rnn_jax import (
    Chunked,
    dense,
    gru,
    learned_carry,
    lru,
    lstm,
    m_lstm,
    orthogonal_rnn,
    stack,
    stream_step,
    tree,
    unroll,
    with_dropout,
)
from rnn_jax.attention import additive, attention_decoder, dot, general, local, monotonic
from rnn_jax.forcing import argmax, forced_unroll

STEPS, SOURCE, BATCH, INPUT, HIDDEN, MEMORY, OUTPUT = 4, 5, 3, 2, 4, 3, 6
RNG = np.random.default_rng(83)
XS = jnp.asarray(RNG.normal(size=(STEPS, BATCH, INPUT)), jnp.float32)
MEMORIES = jnp.asarray(RNG.normal(size=(SOURCE, BATCH, MEMORY)), jnp.float32)
LENGTHS = np.array([5, 2, 0])
NOISY = with_dropout(gru(HIDDEN), inputs=0.4, zoneout_h=0.3, recurrent=0.3)
INNER = {
    "gru": gru(HIDDEN),
    "stack": stack(lru(3), with_dropout(lstm(HIDDEN), inputs=0.5), m_lstm(HIDDEN)),
    "linear": lru(HIDDEN, state_size=3),
    "prepared": orthogonal_rnn(HIDDEN),
    "noisy": NOISY,
    "memoryless": dense(HIDDEN),
}
FEEDING = pytest.mark.parametrize("feeding", [True, False], ids=["fed", "not_fed"])


def build(cell: Any = INNER["gru"], attention: Any = None, feeding: bool = True, **options: Any) -> Any:
    attention = attention or additive(5)
    return attention_decoder(cell, attention, OUTPUT, memory_size=MEMORY, input_feeding=feeding, **options)


def stream(cell: Any, params: Any, xs: Any, carry: Any) -> Any:
    """Step by step, each with its own noise."""
    ys = []
    for t, x in enumerate(xs):
        carry, y = stream_step(cell, tree.at_step(params, t), carry, x)
        ys.append(y)
    return carry, jnp.stack(ys)


@FEEDING
@pytest.mark.parametrize("vector_size", [None, 7])
@pytest.mark.usefixtures("x64")
def test_logits_and_weights_equal_a_loop_over_each_row(feeding, vector_size):
    decoder = build(feeding=feeding, vector_size=vector_size)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), random_params(decoder.cell, INPUT))
    xs, memories = np.asarray(XS, np.float64), np.asarray(MEMORIES, np.float64)
    logits, weights = np.zeros((STEPS, BATCH, OUTPUT)), np.zeros((STEPS, BATCH, SOURCE))
    for b, length in enumerate(LENGTHS):
        vector, read, m, p = np.zeros(vector_size or HIDDEN), [], memories[:length, b], params.attention
        for t in range(STEPS):
            read.append(np.concatenate([xs[t, b], vector]) if feeding else xs[t, b])
            h = oracles.gru(params.cell, np.array(read))[0][-1]
            energies = np.array([np.tanh(h @ p.w_q + m_s @ p.w_m) @ p.v for m_s in m])
            weights[t, b, :length] = np.exp(energies) / np.exp(energies).sum()
            vector = np.tanh(np.concatenate([weights[t, b, :length] @ m, h]) @ params.w_c)
            logits[t, b] = vector @ params.w_o + params.b_o

    padded = np.where(np.arange(SOURCE)[:, None, None] < LENGTHS[:, None], memories, np.nan)

    def run(params: Any, xs: Any, memories: Any) -> Any:
        attended = decoder.attend(params, memories, lengths=jnp.asarray(LENGTHS))
        return unroll(decoder.cell, attended, xs), unroll(decoder.align, attended, xs)

    (carry, ys), (aligned_carry, aligned) = jit(run)(params, xs, padded)
    assert ys.dtype == aligned.dtype == jnp.float64
    np.testing.assert_allclose(ys, logits, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(aligned, weights, rtol=1e-10, atol=1e-12)
    close(aligned_carry, carry)
    if feeding:
        padding = np.arange(SOURCE)[None] >= LENGTHS[:, None]  # nothing there is ever missing
        np.testing.assert_allclose(carry.coverage, weights.sum(0) + padding, rtol=1e-10, atol=1e-12)


@FEEDING
@pytest.mark.parametrize("name", INNER)
def test_steps_equal_the_unroll_and_beams_a_tiled_source(name, feeding):
    """T = B = K = 2: only what the step says can tell steps from beams."""
    decoder = build(INNER[name], general(), feeding)
    params = random_params(decoder.cell, INPUT)
    xs = jnp.asarray(np.random.default_rng(89).normal(size=(2, 2, 2, INPUT)), jnp.float32)
    memory, lengths = MEMORIES[:, :2], jnp.array([5, 3])

    @jit
    def run(params, memory, xs):
        attended = decoder.attend(params, memory, lengths=lengths)
        noisy = decoder.cell.perturb(jax.random.key(3), attended, xs.shape)
        carry = decoder.cell.init_carry(attended, xs.shape[1:-1])
        return {
            name: (unroll(cell, noisy, xs), stream(cell, noisy, xs, carry))
            for name, cell in (("cell", decoder.cell), ("align", decoder.align))
        }

    beams, tiled = run(params, memory, xs), run(params, jnp.repeat(memory[:, :, None], 2, 2), xs)
    for result in (beams, tiled, run(params, memory, xs[:, :, 0])):
        for unrolled, streamed in result.values():
            close(streamed, unrolled)
    close(beams, tiled)
    assert beams["cell"][0][1].shape == (2, 2, 2, OUTPUT)
    assert beams["align"][0][1].shape == (2, 2, 2, SOURCE)


@FEEDING
def test_each_beam_is_the_decoder_without_beams(feeding):
    decoder = build(feeding=feeding)
    params, xs = random_params(decoder.cell, INPUT), jnp.stack([XS, 2 * XS], axis=2)
    run = jit(lambda p, xs: unroll(decoder.cell, decoder.attend(p, MEMORIES, lengths=LENGTHS), xs)[1])
    close(run(params, xs)[:, :, 1], run(params, 2 * XS))


@pytest.mark.parametrize(
    "attention",
    [additive(5, coverage=True), general(coverage=True), local(2), monotonic(5)],
    ids=["additive_coverage", "general_coverage", "local", "monotonic"],
)
def test_mechanisms_with_a_state_run_in_a_decoder_and_ragged_rows_equal_each_row_alone(attention):
    decoder = build(attention=attention)
    params = random_params(decoder.cell, INPUT)
    run = jit(lambda p, m, lengths, xs: unroll(decoder.cell, decoder.attend(p, m, lengths=lengths), xs))
    carry, ys = run(params, MEMORIES, LENGTHS, XS)
    for b, length in enumerate(LENGTHS[:2]):
        alone_carry, alone = run(params, MEMORIES[:length, b], length, XS[:, b])
        close(ys[:, b], alone)
        close(carry.vector[b], alone_carry.vector)
        close(carry.coverage[b, :length], alone_carry.coverage)
        assert (carry.coverage[b, length:] == 1).all()
    attended = decoder.attend(params, MEMORIES, lengths=LENGTHS)
    close(jit(lambda p: stream(decoder.cell, p, XS, decoder.cell.init_carry(p, (BATCH,))))(attended), (carry, ys))
    weights = jit(lambda p: unroll(decoder.align, p, XS)[1])(attended)
    padding = np.arange(SOURCE)[None] >= np.asarray(LENGTHS)[:, None]
    close(weights.sum(0) + padding.astype(np.float32), carry.coverage)


@FEEDING
def test_a_mask_of_the_source_is_as_if_its_steps_were_not_there(feeding):
    decoder = build(feeding=feeding)
    params = random_params(decoder.cell, INPUT)
    mask = np.array([1, 0, 1, 1, 0], bool)
    memories = jnp.where(mask[:, None, None], MEMORIES, jnp.nan)
    run = jit(lambda p, m, mask: unroll(decoder.cell, decoder.attend(p, m, mask=mask), XS)[1])
    close(run(params, memories, np.repeat(mask[:, None], BATCH, 1)), run(params, MEMORIES[mask], np.ones(3, bool)))


@pytest.mark.parametrize("name", ["additive", "additive_not_fed", "general", "coverage", "monotonic", "local_not_fed"])
def test_every_parameter_and_real_source_step_gets_a_gradient_and_no_nan_does(name):
    mechanisms = {
        "additive": additive(5),
        "general": general(),
        "coverage": additive(5, coverage=True),
        "monotonic": monotonic(5),
        "local": local(4),
    }
    feeding = not name.endswith("_not_fed")
    decoder = build(learned_carry(gru(HIDDEN)), mechanisms[name.removesuffix("_not_fed")], feeding)
    params = decoder.cell.init(jax.random.key(0), INPUT)

    def loss(params, memories, xs):
        ys = unroll(decoder.cell, decoder.attend(params, memories, lengths=LENGTHS), xs, lengths=jnp.array([4, 2, 3]))[
            1
        ]
        return (ys * jnp.sin(jnp.arange(ys.size, dtype=ys.dtype)).reshape(ys.shape)).sum()

    gradient = jit(jax.grad(loss, argnums=(0, 1, 2)))
    real = np.arange(SOURCE)[:, None] < LENGTHS
    ours = gradient(params, MEMORIES, XS)
    dead = [jax.tree_util.keystr(path) for path, leaf in jax.tree.leaves_with_path(ours) if not (leaf != 0).any()]
    assert not dead
    assert ((ours[1] != 0).any(-1) == real).all()
    padded = jnp.where(real[..., None], MEMORIES, jnp.nan), XS.at[2:, 1].set(jnp.nan)
    close(gradient(params, *padded), ours)


@FEEDING
def test_chunks_and_forcing_of_a_decoder_equal_the_plain_loop(feeding):
    decoder = build(NOISY, feeding=feeding)
    params = random_params(decoder.cell, INPUT)
    embedding = jnp.asarray(RNG.normal(size=(OUTPUT, INPUT)), jnp.float32)
    targets = jnp.asarray(RNG.integers(0, OUTPUT, (STEPS, BATCH)))

    @jit
    def run(params):
        attended = decoder.attend(params, MEMORIES, lengths=LENGTHS)
        noisy = decoder.cell.perturb(jax.random.key(5), attended, XS.shape)
        chunked = unroll(decoder.cell, noisy, XS, method=Chunked(3))
        free = forced_unroll(decoder.cell, noisy, targets, 0.0, start=1, feedback=argmax, embedding=embedding)
        return unroll(decoder.cell, noisy, XS), chunked, free, noisy

    plain, chunked, free, noisy = run(params)
    close(chunked, plain)
    carry, tokens, ys = decoder.cell.init_carry(noisy, (BATCH,)), jnp.ones(BATCH, int), []
    for t in range(STEPS):
        carry, y = jit(lambda p, c, x: stream_step(decoder.cell, p, c, x))(
            tree.at_step(noisy, t), carry, embedding[tokens]
        )
        tokens = y.argmax(-1)
        ys.append(y)
    close(free, (carry, jnp.stack(ys)))


def dot_generals_in_the_loop(cell: Any, params: Any) -> int:
    jaxpr = jax.make_jaxpr(lambda p, xs: unroll(cell, p, xs))(params, XS)
    (loop,) = loops(jaxpr.jaxpr)
    return str(loop.params["jaxpr"]).count("dot_general")


def loops(jaxpr: Any) -> list[Any]:
    """The scans of a program, those within other calls too."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            found.append(equation)
        else:
            inner = [value.jaxpr for value in equation.params.values() if hasattr(value, "jaxpr")]
            found += [loop for part in inner for loop in loops(part)]
    return found


def test_without_input_feeding_only_the_inner_step_is_in_the_loop():
    counts = []
    for feeding in (False, True):
        decoder = build(feeding=feeding)
        attended = decoder.attend(random_params(decoder.cell, INPUT), MEMORIES)
        counts.append(dot_generals_in_the_loop(decoder.cell, attended))
    assert counts[0] == dot_generals_in_the_loop(gru(HIDDEN), random_params(gru(HIDDEN), INPUT)) == 1
    assert counts[1] > 3


@FEEDING
def test_work_on_the_parameters_of_the_inner_cell_is_done_before_the_loop(feeding):
    decoder = build(INNER["prepared"], feeding=feeding)
    params = decoder.attend(random_params(decoder.cell, INPUT), MEMORIES)
    prepared = decoder.cell.prepare(params)
    close(prepared, params._replace(cell=INNER["prepared"].prepare(params.cell)))
    assert jax.tree.structure(prepared.cell) != jax.tree.structure(params.cell) or any(
        not np.allclose(a, b) for a, b in zip(jax.tree.leaves(prepared.cell), jax.tree.leaves(params.cell), strict=True)
    )


@FEEDING
def test_half_precision_goes_through_and_the_carry_stays_float32(feeding):
    decoder = build(feeding=feeding)
    params = random_params(decoder.cell, INPUT)

    def run(xs, memories):
        attended = decoder.attend(params, memories, lengths=LENGTHS)
        return unroll(decoder.cell, attended, xs), unroll(decoder.align, attended, xs)[1]

    (carry, ys), weights = jit(run)(XS.astype(jnp.bfloat16), MEMORIES.astype(jnp.bfloat16))
    assert ys.dtype == jnp.bfloat16
    assert weights.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(carry)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(ys.astype(jnp.float32), jit(run)(XS, MEMORIES)[0][1], atol=0.15)


@FEEDING
def test_no_steps_are_none(feeding):
    decoder = build(feeding=feeding)
    attended = decoder.attend(random_params(decoder.cell, INPUT), MEMORIES)
    assert unroll(decoder.cell, attended, XS[:0])[1].shape == (0, BATCH, OUTPUT)
    assert unroll(decoder.align, attended, XS[:0])[1].shape == (0, BATCH, SOURCE)


def test_a_rebuilt_decoder_is_the_same_and_does_not_compile_again():
    assert build() is attention_decoder(
        input_feeding=True, cell=gru(HIDDEN), output_size=OUTPUT, attention=additive(size=5), memory_size=MEMORY
    )
    run = jax.jit(lambda cell, params, xs: unroll(cell, params, xs)[1], static_argnums=0)
    params = random_params(build().cell, INPUT)
    for memories in (MEMORIES, MEMORIES + 1):
        run(build().cell, build().attend(params, memories, lengths=LENGTHS), XS)
    assert run._cache_size() == 1


def test_initial_parameters_have_the_sizes_of_what_they_read():
    with pytest.raises(ValueError, match=r"`query_size` and `memory_size` must be equal for dot\(\), got 4 and 3"):
        build(lstm(8, projection=4), dot()).cell.init(jax.random.key(0), INPUT)
    fed, plain = (build(lstm(8, projection=4), feeding=f, vector_size=7) for f in (True, False))
    for decoder, reads in ((fed, INPUT + 7), (plain, INPUT)):
        params = decoder.cell.init(jax.random.key(0), INPUT)
        assert params.cell.w_x.shape[0] == reads
        assert params.attention.w_q.shape == (4, 5)
        assert params.w_c.shape == (MEMORY + 4, 7)
        assert params.w_o.shape == (7, OUTPUT)
    assert build().cell.init(jax.random.key(0), INPUT).w_c.shape == (MEMORY + HIDDEN, HIDDEN)


def test_what_does_not_fit_is_refused():
    for attention in (additive(5, coverage=True), dot(coverage=True), monotonic(5)):
        with pytest.raises(ValueError, match=r"`input_feeding=False` attends for all .* an `attention` without state"):
            build(attention=attention, feeding=False)
    with pytest.raises(ValueError, match=r"`attention` must be an Attention such as additive\(64\), got function"):
        build(attention=additive)
    with pytest.raises(ValueError, match=r"`cell` must be a Cell or a LinearCell, got the function gru"):
        build(gru)
    for options in ({"vector_size": 0}, {"memory_size": 0}, {"output_size": 0}):
        (name,) = options
        with pytest.raises(ValueError, match=rf"`{name}` must be an integer of at least 1, got int 0"):
            attention_decoder(**{"cell": gru(3), "attention": dot(), "output_size": 2, "memory_size": 3} | options)
    for feeding, start in itertools.product((True, False), (True, False)):
        decoder = build(feeding=feeding)
        params = random_params(decoder.cell, INPUT)
        with pytest.raises(ValueError, match=r"`params` hold no memory; call decoder.attend\(params, memory\) first"):
            unroll(decoder.cell if start else decoder.align, params, XS)
        attended = decoder.attend(params, MEMORIES[:, :2])
        with pytest.raises(ValueError, match=r"`params` hold a memory of batch \(2,\), but xs has batch \(3,\)"):
            unroll(decoder.cell if start else decoder.align, attended, XS)
        with pytest.raises(ValueError, match=r"`memory` must have 3 features on its last axis, got shape \(5, 3, 2\)"):
            decoder.attend(params, MEMORIES[..., :2])
        with pytest.raises(ValueError, match=r"`memory` must have at least one source step, got shape \(0, 3, 3\)"):
            decoder.attend(params, MEMORIES[:0])
        with pytest.raises(ValueError, match=r"`lengths` must lie in \[0, T\] with T=5, got 6"):
            decoder.attend(params, MEMORIES, lengths=jnp.array([6, 1, 1]))
        with pytest.raises(ValueError, match=r"`mask` must be boolean"):
            decoder.attend(params, MEMORIES, mask=jnp.ones((SOURCE, BATCH)))
    for key, size, name in ((0, 3, "key"), (jax.random.key(0), 0, "input_size")):
        with pytest.raises(ValueError, match=rf"`{name}` must be"):
            build().cell.init(key, size)
