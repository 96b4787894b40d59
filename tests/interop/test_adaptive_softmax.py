"""The adaptive softmax is that of torch, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax.token_heads import AdaptiveParams, adaptive_head

torch = pytest.importorskip("torch")


def test_it_is_the_one_of_torch() -> None:
    torch.manual_seed(0)
    theirs = torch.nn.AdaptiveLogSoftmaxWithLoss(8, 20, [5, 12], div_value=2.0, head_bias=False)
    tails = [[layer.weight.detach().numpy().T for layer in tail] for tail in theirs.tail]
    params = AdaptiveParams(
        head=jnp.asarray(theirs.head.weight.detach().numpy().T),
        down=tuple(jnp.asarray(down) for down, _ in tails),
        up=tuple(jnp.asarray(up) for _, up in tails),
    )
    head = adaptive_head(20, [5, 12], divide=2.0)
    assert jax.tree.map(jnp.shape, head.init(jax.random.key(0), 8)) == jax.tree.map(jnp.shape, params)
    rng = np.random.default_rng(1)
    hs, targets = rng.normal(size=(30, 8)).astype(np.float32), rng.integers(0, 20, 30)
    inputs = torch.tensor(hs, requires_grad=True)
    output, loss = theirs(inputs, torch.tensor(targets))
    loss.backward()
    nll, vjp = jax.vjp(lambda params, hs: head.nll(params, hs, jnp.asarray(targets, jnp.int32)), params, hs)
    np.testing.assert_allclose(nll, -output.detach().numpy(), atol=2e-6)
    np.testing.assert_allclose(
        head.log_probs(params, hs), theirs.log_prob(torch.tensor(hs)).detach().numpy(), atol=2e-6
    )
    grads, d_hs = vjp(jnp.full(30, 1 / 30))
    np.testing.assert_allclose(d_hs, inputs.grad.numpy(), atol=1e-6)
    np.testing.assert_allclose(grads.head, theirs.head.weight.grad.numpy().T, atol=1e-6)
    for k, tail in enumerate(theirs.tail):
        np.testing.assert_allclose(grads.down[k], tail[0].weight.grad.numpy().T, atol=1e-6)
        np.testing.assert_allclose(grads.up[k], tail[1].weight.grad.numpy().T, atol=1e-6)
