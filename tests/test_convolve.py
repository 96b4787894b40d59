import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from jax.test_util import check_grads

from rnn_jax.products import convolve


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape)


@pytest.mark.parametrize("kernel", [(3,), (2,), (3, 3), (5, 2), (1, 4), (2, 3, 3)])
def test_it_is_a_correlation_with_zeros_around(kernel):
    space = (7, 6, 5)[: len(kernel)]
    x, w = numbers(2, 3, *space, 2), numbers(*kernel, 2, 4)
    expected = np.zeros((2, 3, *space, 4))
    pads = [((k - 1) // 2, k // 2) for k in kernel]
    for a, b, i, o in itertools.product(range(2), range(3), range(2), range(4)):
        padded = np.pad(x[a, b, ..., i], pads)
        expected[a, b, ..., o] += scipy.signal.correlate(padded, w[..., i, o], "valid", method="direct")
    np.testing.assert_allclose(convolve(jnp.asarray(x, jnp.float32), jnp.asarray(w)), expected, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [(3, 3), (2, 4), (1, 1)])
def test_strides_are_those_of_xla(kernel, stride):
    x, w = numbers(2, 8, 5, 3).astype(np.float32), numbers(*kernel, 3, 2).astype(np.float32)
    expected = jax.lax.conv_general_dilated(x, w, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(convolve(x, w, stride), expected, atol=1e-5)


def test_gradients_of_both_modes_and_orders():
    x, w = (jnp.asarray(value, jnp.float32) for value in (numbers(2, 4, 3, 2), numbers(3, 3, 2, 3)))
    check_grads(lambda x, w: jnp.sin(convolve(x, w, 2)), (x, w), order=2, modes=("fwd", "rev"), rtol=2e-2)


def test_kernels_side_by_side_and_dtypes():
    x, w = numbers(3, 2, 4, 4, 2).astype(np.float32), numbers(3, 3, 3, 2, 2).astype(np.float32)
    together = jax.vmap(convolve)(x, w)
    for n in range(3):
        np.testing.assert_allclose(together[n], convolve(x[n], w[n]), atol=1e-6)
    assert convolve(jnp.asarray(x, jnp.bfloat16), w[0]).dtype == jnp.bfloat16


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"`xs` must have 2 spatial axes before its features, got shape \(4, 2\)"):
        convolve(jnp.ones((4, 2)), jnp.ones((3, 3, 2, 1)))
    with pytest.raises(ValueError, match=r"`xs`.*3.*2"):
        convolve(jnp.ones((4, 4, 2)), jnp.ones((3, 3, 3, 1)))
