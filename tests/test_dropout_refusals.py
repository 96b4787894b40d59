"""What `with_dropout` refuses, and what it says then."""

import jax
import jax.numpy as jnp
import pytest

from rnn_jax import gru, lru, lstm, m_lstm, orthogonal_rnn, s_lstm, stack, unroll, with_dropout

KEY = jax.random.key(8)
XS = jnp.zeros((6, 3, 4))


@pytest.mark.parametrize("name", ["inputs", "variational", "recurrent", "weights", "zoneout_h", "zoneout_c"])
def test_a_rate_outside_zero_to_one_is_refused(name):
    for rate, text in ((1.0, "float 1.0"), (-0.1, "float -0.1"), (True, "bool True"), ("0.5", "str '0.5'")):
        with pytest.raises(ValueError, match=rf"`{name}` must be a number in \[0, 1\), got {text}"):
            with_dropout(gru(3), **{name: rate})


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (with_dropout(lru(3), recurrent=0.1), r"`recurrent` needs a cell with a recurrent kernel `w_h`, got LRUParams"),
        (with_dropout(m_lstm(3), weights=0.1), r"`weights` needs a cell with .* `w_h`, got MLSTMParams"),
        (with_dropout(orthogonal_rnn(3), weights=0.1), r"`weights` needs a cell with .* `w_h`, got OrthogonalParams"),
        (with_dropout(m_lstm(3), zoneout_h=0.1), r"needs a carry that is h or has a field `h`, got MLSTMCarry"),
        (with_dropout(stack(gru(3), gru(3)), zoneout_h=0.1), r"needs a carry that is h or has a field `h`, got tuple"),
        (with_dropout(stack(gru(3), gru(3)), recurrent=0.1), r"needs a carry that is h or has a field `h`, got tuple"),
        (with_dropout(gru(3), zoneout_c=0.1), r"`zoneout_c` needs a carry with leaves other than h, got only h"),
        (with_dropout(s_lstm(4), zoneout_c=0.1), r"`zoneout_c` cannot mix a carry whose scale moves"),
    ],
)
def test_a_cell_without_what_a_rate_needs_is_refused(cell, text):
    with pytest.raises(ValueError, match=text):
        jax.eval_shape(lambda: cell.init(KEY, 4))


def test_other_mistakes_are_refused():
    with pytest.raises(ValueError, match=r"`cell` must be a Cell or a LinearCell, got str 'gru'"):
        with_dropout("gru", inputs=0.1)
    cell = with_dropout(lstm(5, projection=3), zoneout_c=0.1)
    with pytest.raises(ValueError, match=r"zoneout needs leaves shaped like h \(3, 3\), got `c` of shape \(3, 5\)"):
        jax.eval_shape(lambda: cell.perturb(KEY, cell.init(KEY, 4), XS.shape))
    cell = with_dropout(gru(5), inputs=0.1)
    with pytest.raises(
        ValueError, match=r"`params` were perturbed for 4 steps, but xs has T=6; call cell.perturb with"
    ):
        jax.eval_shape(lambda: unroll(cell, cell.perturb(KEY, cell.init(KEY, 4), (4, 3, 4)), XS))


@pytest.mark.parametrize("rate", ["recurrent", "weights"])
def test_a_kernel_that_is_masked_already_is_not_passed_over_silently(rate):
    cell = with_dropout(with_dropout(gru(3), recurrent=0.5), **{rate: 0.5})
    params = cell.init(KEY, 4)
    with pytest.raises(ValueError, match="find the kernel masked already; give all rates to one with_dropout"):
        cell.perturb(KEY, params, XS.shape)
