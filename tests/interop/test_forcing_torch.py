"""The classic loop of scheduled sampling over a `torch.nn.GRUCell`, with the same coins and weights: equal outputs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparing import jit

from rnn_jax import dense, stack
from rnn_jax.compose import DenseParams
from rnn_jax.forcing import argmax, forced_unroll, forcing_mask
from rnn_jax.interop import from_torch

torch = pytest.importorskip("torch")

STEPS, BATCH, HIDDEN, VOCABULARY, EMBEDDED = 7, 3, 5, 6, 4


def classic(cell: Any, head: Any, embedding: Any, targets: Any, h: Any, coins: Any) -> Any:
    """The loop of a hundred tutorials: one coin for each step and sequence."""
    token, outputs = torch.zeros(BATCH, dtype=torch.long), []
    for t in range(STEPS):
        h = cell(embedding(token), h)
        logits = head(h)
        outputs.append(logits)
        _, top = logits.topk(1)
        token = torch.empty_like(token)
        for row in range(BATCH):
            if t + 1 < STEPS and coins[t + 1, row]:
                token[row] = targets[t, row]
            else:
                token[row] = top[row, 0].detach()
    return h, torch.stack(outputs)


@pytest.mark.parametrize("per", ["step", "batch"])
def test_outputs_and_gradients_are_those_of_torch(per: Any, x64: None) -> None:
    torch.manual_seed(0)
    cell, head = torch.nn.GRUCell(EMBEDDED, HIDDEN).double(), torch.nn.Linear(HIDDEN, VOCABULARY).double()
    embedding = torch.nn.Embedding(VOCABULARY, EMBEDDED).double()
    with torch.no_grad():
        for parameter in [*cell.parameters(), *head.parameters()]:
            parameter.mul_(2.0)
    rng = np.random.default_rng(1)
    targets = rng.integers(VOCABULARY, size=(STEPS, BATCH))
    carry = torch.tensor(rng.normal(size=(BATCH, HIDDEN)), requires_grad=True)
    table = jnp.asarray(embedding.weight.detach().numpy())
    weights = {f"{name}_l0": value for name, value in cell.state_dict().items()}
    converted, gru_params = from_torch(weights, "GRU")
    params = (
        gru_params,
        DenseParams(jnp.asarray(head.weight.detach().numpy().T), jnp.asarray(head.bias.detach().numpy())),
    )
    decoder = stack(converted, dense(VOCABULARY))
    first = jnp.asarray(carry.detach().numpy())

    def run(mask: Any, params: Any, table: Any, first: Any) -> Any:
        (h, _), ys = forced_unroll(
            decoder, params, jnp.asarray(targets), mask, (first, ()), start=0, feedback=argmax, embedding=table
        )
        return (jnp.cos(jnp.arange(ys.size, dtype=ys.dtype)).reshape(ys.shape) * ys).sum() + (h**2).sum(), (h, ys)

    compiled = jit(jax.value_and_grad(run, (1, 2, 3), has_aux=True))
    seen = set()
    for rate in (1.0, 0.6, 0.3, 0.0):
        mask = forcing_mask(jax.random.key(5), rate, STEPS, (BATCH,), per=per)
        (_, (h, ys)), grads = compiled(mask, params, table, first)
        for leaf in (*cell.parameters(), *head.parameters(), *embedding.parameters(), carry):
            leaf.grad = None
        torch_h, torch_ys = classic(cell, head, embedding, torch.tensor(targets), carry, np.asarray(mask))
        (
            (torch.arange(torch_ys.numel()).reshape(torch_ys.shape).double().cos() * torch_ys).sum()
            + (torch_h**2).sum()
        ).backward()
        np.testing.assert_allclose(ys, torch_ys.detach().numpy(), rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(h, torch_h.detach().numpy(), rtol=1e-11, atol=1e-12)
        (gru_grads, head_grads), by_table, by_carry = grads
        for ours, theirs in (
            (gru_grads.w_x, cell.weight_ih.grad.T),
            (gru_grads.w_h, cell.weight_hh.grad.T),
            (head_grads.w, head.weight.grad.T),
            (head_grads.b, head.bias.grad),
            (by_table, embedding.weight.grad),
            (by_carry, carry.grad),
        ):
            np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-10, atol=1e-11)
        seen.add(np.asarray(ys).tobytes())
    assert len(seen) == (4 if per == "step" else 2)
    assert compiled._cache_size() == 1
