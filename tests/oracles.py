"""Every cell once more, from its equations: one slow float64 NumPy loop over one sequence, named as in `CELLS`.

`oracle(p, xs, **options) -> (ys [T, ..., O], carry)`; p has the fields of the cell's parameters as NumPy arrays, xs is
[T, ..., I]. No stabilisers, no fused tricks, no shortcuts: what the papers print. The carry is a tuple of arrays in
the order of the cell's carry, without its stabiliser.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg

Array = np.ndarray
Result = tuple[Array, tuple[Array, ...]]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def softplus(x: Array) -> Array:
    return np.log(1 + np.exp(x))


def relu(x: Array) -> Array:
    return np.where(x > 0, x, 0)


def normalise(x: Array) -> Array:
    return (x - x.mean()) / np.sqrt(x.var() + 1e-6)


def leaky(p: Any, xs: Array) -> Result:
    h, ys = np.zeros(p.b.size), []
    for x in xs:
        alpha = sigmoid(p.rate)
        h = (1 - alpha) * h + alpha * np.tanh(x @ p.w_x + h @ p.w_h + p.b)
        ys.append(h)
    return np.array(ys), (h,)


def elman(p: Any, xs: Array, activation: Callable[[Array], Array] = np.tanh) -> Result:
    h, ys = np.zeros(p.b.size), []
    for x in xs:
        h = activation(x @ p.w_x + h @ p.w_h + p.b)
        ys.append(h)
    return np.array(ys), (h,)


def irnn(p: Any, xs: Array) -> Result:
    return elman(p, xs, activation=relu)


def lstm(p: Any, xs: Array, coupled: bool = False, cell_clip: float = np.inf) -> Result:
    gates, size = ("fgo", p.b.size // 3) if coupled else ("ifgo", p.b.size // 4)
    h, c, ys = np.zeros(len(p.w_h)), np.zeros(size), []
    peephole = dict.fromkeys("ifo", np.zeros(size))
    if p.w_peephole is not None:
        peephole = dict(zip("fo" if coupled else "ifo", p.w_peephole, strict=True))
    for x in xs:
        from_x, from_h = x @ p.w_x, h @ p.w_h
        if p.norm is not None:
            from_x, from_h = normalise(from_x) * p.norm.scale_x, normalise(from_h) * p.norm.scale_h
        z = dict(zip(gates, np.split(from_x + from_h + p.b, len(gates)), strict=True))
        f = sigmoid(z["f"] + peephole["f"] * c)
        i = 1 - f if coupled else sigmoid(z["i"] + peephole["i"] * c)
        c = np.clip(f * c + i * np.tanh(z["g"]), -cell_clip, cell_clip)
        o = sigmoid(z["o"] + peephole["o"] * c)
        h = o * np.tanh(c if p.norm is None else normalise(c) * p.norm.scale_c + p.norm.shift_c)
        h = h if p.w_projection is None else h @ p.w_projection
        ys.append(h)
    return np.array(ys), (h, c)


def gru(p: Any, xs: Array, reset: str = "after") -> Result:
    (x_r, x_z, x_n), (h_r, h_z, h_n) = np.split(p.w_x, 3, -1), np.split(p.w_h, 3, -1)
    b_r, b_z, b_n = np.split(p.b, 3)
    h, ys = np.zeros(b_n.size), []
    for x in xs:
        r = sigmoid(x @ x_r + h @ h_r + b_r)
        z = sigmoid(x @ x_z + h @ h_z + b_z)
        inner = r * (h @ h_n + p.b_hn) if reset == "after" else (r * h) @ h_n
        h = (1 - z) * np.tanh(x @ x_n + b_n + inner) + z * h
        ys.append(h)
    return np.array(ys), (h,)


def mgu(p: Any, xs: Array) -> Result:
    (x_f, x_n), (h_f, h_n), (b_f, b_n) = np.split(p.w_x, 2, -1), np.split(p.w_h, 2, -1), np.split(p.b, 2)
    h, ys = np.zeros(b_n.size), []
    for x in xs:
        f = sigmoid(x @ x_f + h @ h_f + b_f)
        h = (1 - f) * h + f * np.tanh(x @ x_n + (f * h) @ h_n + b_n)
        ys.append(h)
    return np.array(ys), (h,)


def ind_rnn(p: Any, xs: Array, activation: Callable[[Array], Array] = relu) -> Result:
    h, ys = np.zeros(p.b.size), []
    for x in xs:
        h = activation(x @ p.w_x + p.w_h * h + p.b)
        ys.append(h)
    return np.array(ys), (h,)


def min_gru(p: Any, xs: Array) -> Result:
    (w_z, w_n), (b_z, b_n) = np.split(p.w_x, 2, -1), np.split(p.b, 2)
    h, ys = np.zeros(b_n.size), []
    for x in xs:
        z = sigmoid(x @ w_z + b_z)
        h = (1 - z) * h + z * (x @ w_n + b_n)
        ys.append(h)
    return np.array(ys), (h,)


def min_lstm(p: Any, xs: Array) -> Result:
    (w_f, w_i, w_n), (b_f, b_i, b_n) = np.split(p.w_x, 3, -1), np.split(p.b, 3)
    h, ys = np.zeros(b_n.size), []
    for x in xs:
        f, i = sigmoid(x @ w_f + b_f), sigmoid(x @ w_i + b_i)
        h = f / (f + i) * h + i / (f + i) * (x @ w_n + b_n)
        ys.append(h)
    return np.array(ys), (h,)


def lru(p: Any, xs: Array) -> Result:
    eigenvalue = np.exp(-np.exp(p.nu_log) + 1j * np.exp(p.theta_log))
    b, c = p.b_re + 1j * p.b_im, p.c_re + 1j * p.c_im
    d = np.diag(p.d) if p.d.ndim == 1 else p.d
    h, ys = np.zeros(eigenvalue.size, complex), []
    for x in xs:
        h = eigenvalue * h + np.exp(p.gamma_log) * (x @ b)
        ys.append((h @ c).real + x @ d)
    return np.array(ys), (h,)


def s5(p: Any, xs: Array) -> Result:
    """The whole conjugate-symmetric system with dense matrices, which shows where the factor 2 comes from."""
    n = p.lambda_re.size
    half = np.minimum(p.lambda_re, -1e-4) + 1j * p.lambda_im
    continuous = np.diag(np.concatenate([half, half.conj()]))
    dt = np.diag(np.exp(np.concatenate([p.log_step, p.log_step])))
    b = np.concatenate([p.b_re + 1j * p.b_im, p.b_re - 1j * p.b_im], axis=1).T
    c = np.concatenate([p.c_re + 1j * p.c_im, p.c_re - 1j * p.c_im], axis=0).T
    d = np.diag(p.d) if p.d.ndim == 1 else p.d.T
    a_bar = scipy.linalg.expm(continuous @ dt)
    b_bar = np.linalg.inv(continuous) @ (a_bar - np.eye(2 * n)) @ b
    h, ys = np.zeros(2 * n, complex), []
    for x in xs:
        h = a_bar @ h + b_bar @ x
        y = c @ h
        assert np.abs(y.imag).max() < 1e-12
        ys.append(y.real + d @ x)
    return np.array(ys), (h[:n],)


def rg_lru(p: Any, xs: Array) -> Result:
    (w_r, w_i), (b_r, b_i) = np.split(p.w_x, 2, -1), np.split(p.b, 2)
    h, ys = np.zeros(b_r.size), []
    for x in xs:
        u = x if p.w_in is None else x @ p.w_in
        r, i = sigmoid(u @ w_r + b_r), sigmoid(u @ w_i + b_i)
        a = sigmoid(-p.decay) ** (8 * r)
        h = a * h + np.sqrt(1 - a**2) * (i * u)
        ys.append(h)
    return np.array(ys), (h,)


def s_lstm(p: Any, xs: Array, num_heads: int = 1) -> Result:
    size = p.b.size // 4
    head = size // num_heads
    h, c, n, ys = np.zeros(size), np.zeros(size), np.zeros(size), []
    for x in xs:
        z = (x @ p.w_x + p.b).reshape(4, size)
        for k in range(num_heads):
            units = slice(k * head, (k + 1) * head)
            z[:, units] += (h[units] @ p.w_h[k]).reshape(4, head)
        i, f, g, o = np.exp(z[0]), sigmoid(z[1]), np.tanh(z[2]), sigmoid(z[3])
        c = f * c + i * g
        n = f * n + i
        h = o * c / n
        ys.append(h)
    return np.array(ys), (h, c, n)


def m_lstm(p: Any, xs: Array, num_heads: int = 1) -> Result:
    size = p.b_o.size
    head = size // num_heads
    c, n, ys = np.zeros((num_heads, head, head)), np.zeros((num_heads, head)), []
    for x in xs:
        q, k, v = (x @ p.w_qkv).reshape(3, num_heads, head)
        i, f = (x @ p.w_gates + p.b_gates).reshape(2, num_heads)
        h = np.zeros((num_heads, head))
        for j in range(num_heads):
            key = k[j] / np.sqrt(head)
            c[j] = sigmoid(f[j]) * c[j] + np.exp(i[j]) * np.outer(v[j], key)
            n[j] = sigmoid(f[j]) * n[j] + np.exp(i[j]) * key
            h[j] = c[j] @ q[j] / max(abs(n[j] @ q[j]), 1)
        ys.append(sigmoid(x @ p.w_o + p.b_o) * h.reshape(size))
    return np.array(ys), (c, n)


def convolve(x: Array, w: Array) -> Array:
    """x [*space, I] with window w [*window, I, O], zeros around: position by position, offset by offset."""
    space, window = x.shape[:-1], w.shape[:-2]
    out = np.zeros((*space, w.shape[-1]))
    for position in np.ndindex(*space):
        for offset in np.ndindex(*window):
            at = tuple(i + j - (k - 1) // 2 for i, j, k in zip(position, offset, window, strict=True))
            if all(0 <= i < n for i, n in zip(at, space, strict=True)):
                out[position] += x[at] @ w[offset]
    return out


def conv_lstm(p: Any, xs: Array) -> Result:
    size = p.b.size // 4
    h, c, ys = np.zeros((*xs.shape[1:-1], size)), np.zeros((*xs.shape[1:-1], size)), []
    for x in xs:
        i, f, g, o = np.split(convolve(x, p.w_x) + convolve(h, p.w_h) + p.b, 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        ys.append(h)
    return np.array(ys), (h, c)


def co_rnn(p: Any, xs: Array, dt: float = 0.042, gamma: float = 2.7, epsilon: float = 4.7) -> Result:
    h, v, ys = np.zeros(p.b.size), np.zeros(p.b.size), []
    for x in xs:
        v = v + dt * (np.tanh(x @ p.w_x + h @ p.w_h + v @ p.w_v + p.b) - gamma * h - epsilon * v)
        h = h + dt * v
        ys.append(h)
    return np.array(ys), (h, v)


def antisymmetric(p: Any, xs: Array, step_size: float = 0.1, diffusion: float = 0.01) -> Result:
    h, ys = np.zeros(p.b.size), []
    w_h = p.w - p.w.T - diffusion * np.eye(p.b.size)
    for x in xs:
        h = h + step_size * np.tanh(x @ p.w_x + h @ w_h + p.b)
        ys.append(h)
    return np.array(ys), (h,)


def orthogonal_rnn(p: Any, xs: Array, transform: str = "expm") -> Result:
    upper, eye = np.triu(p.skew, 1), np.eye(p.b.size)
    a = upper - upper.T
    w_h = scipy.linalg.expm(a) if transform == "expm" else np.linalg.inv(eye - a / 2) @ (eye + a / 2)
    assert np.allclose(w_h @ w_h.T, eye)
    h, ys = np.zeros(p.b.size), []
    for x in xs:
        u = x @ p.w_x + h @ w_h
        h = np.sign(u) * relu(np.abs(u) + p.b)
        ys.append(h)
    return np.array(ys), (h,)


def sh_plrnn(p: Any, xs: Array, clipped: bool = True) -> Result:
    h, ys = np.zeros(p.b.size), []
    for x in xs:
        u = h @ p.w_h
        basis = relu(u + p.threshold) - (relu(u) if clipped else 0)
        h = p.diagonal * h + basis @ p.w_basis + x @ p.w_x + p.b
        ys.append(h)
    return np.array(ys), (h,)
