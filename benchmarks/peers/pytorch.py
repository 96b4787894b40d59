"""torch, eager: `nn.LSTM` and its like, `pack_padded_sequence` for lengths, a Python loop for the decoder."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from benchmarks.problems import Problem, Tree, flat, seeds

RATE = 1e-2
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CELLS = {"lstm": nn.LSTM, "gru": nn.GRU, "elman": nn.RNN}


def build(problem: Problem) -> tuple[Callable[[], Any], Tree, dict[str, Any]]:
    """What is timed, as `benchmarks.programs.Program` has it.

    Args:
        problem: what to compute.

    Returns:
        `(run, results, facts)`.
    """
    kind, family = problem.case.program, problem.case.family
    inputs, data = (_tensors(part) for part in (problem.inputs, problem.data))
    if kind == "stream":
        return _stream(problem, inputs["xs"])
    if kind == "seeds":
        models = [_Recurrent(one) for one in seeds(problem)]
        return _gradient(models, inputs, data)
    models = {"decoder": _Decoder, "char_lm": _CharLM, "bidirectional": _Bidirectional}
    model = models.get(family, _Recurrent)(problem).to(DEVICE)
    if kind == "update":
        return _update(model, data)
    return _gradient([model], inputs, data)


def gemm_rate(size: int) -> float:
    """Operations a second of a matrix product, the best of a few."""
    a = torch.ones(size, size, device=DEVICE)
    seconds = []
    for _ in range(8):
        started = time.perf_counter()
        a @ a
        _wait()
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds)


class _Recurrent(nn.Module):
    """One layer of LSTM, GRU or RNN."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.family = problem.case.family
        s = problem.case.sizes
        self.rnn = CELLS[self.family](s["I"], s["H"])
        _fill(self.rnn, "_l0", problem.params)
        self.to(DEVICE)

    def forward(self, inputs: Tree, data: Tree) -> torch.Tensor:
        return self.rnn(inputs["xs"])[0]

    def read(self) -> Tree:
        return _read(self.rnn, "_l0", _grad)


class _Bidirectional(nn.Module):
    """Layers in both directions over packed sequences."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        s = problem.case.sizes
        self.rnn = nn.LSTM(s["I"], s["H"], num_layers=s["L"], bidirectional=True)
        self.suffixes = {f"{i}{way}": f"_l{i}" + "_reverse" * (way == "b") for i in range(s["L"]) for way in "fb"}
        for name, suffix in self.suffixes.items():
            _fill(self.rnn, suffix, problem.params[name])

    def forward(self, inputs: Tree, data: Tree) -> torch.Tensor:
        packed = pack_padded_sequence(inputs["xs"], data["lengths"].cpu(), enforce_sorted=False)
        return pad_packed_sequence(self.rnn(packed)[0], total_length=inputs["xs"].shape[0])[0]

    def read(self) -> Tree:
        return {name: _read(self.rnn, suffix, _grad) for name, suffix in self.suffixes.items()}


class _Decoder(nn.Module):
    """A GRU with additive attention and input feeding; reads its own likeliest token where it is not forced."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        s, given = problem.case.sizes, problem.params
        self.cell = nn.GRUCell(s["I"] + s["H"], s["H"])
        _fill(self.cell, "", given["cell"])
        arrays = {**given["attention"], **{name: given[name] for name in ("embedding", "w_c", "w_o", "b_o")}}
        self.arrays = nn.ParameterDict({name: nn.Parameter(torch.tensor(value)) for name, value in arrays.items()})

    def forward(self, inputs: Tree, data: Tree) -> torch.Tensor:
        p, memory, targets = self.arrays, inputs["memory"], data["targets"]
        keys = memory @ p["w_m"]
        padding = torch.arange(memory.shape[0], device=DEVICE)[:, None] >= data["lengths"]
        h = vector = memory.new_zeros(targets.shape[1], self.cell.hidden_size)
        own, ys, forced = torch.zeros_like(targets[0]), [], data["forced"] == 1
        everywhere = bool(forced[1:].all())
        for t in range(targets.shape[0]):
            token = torch.where(forced[t], targets[t - 1], own) if t else own
            h = self.cell(torch.cat([p["embedding"][token], vector], dim=-1), h)
            energies = torch.tanh(keys + h @ p["w_q"]) @ p["v"]
            shares = energies.masked_fill(padding, -torch.inf).softmax(0)
            context = torch.einsum("sb,sbe->be", shares, memory)
            vector = torch.tanh(torch.cat([context, h], dim=-1) @ p["w_c"])
            if everywhere:  # all logits at once, after the loop
                ys.append(vector)
                continue
            ys.append(vector @ p["w_o"] + p["b_o"])
            own = ys[-1].argmax(-1)
        stacked = torch.stack(ys)
        return stacked @ p["w_o"] + p["b_o"] if everywhere else stacked

    def read(self) -> Tree:
        arrays = {name: _grad(value) for name, value in self.arrays.items()}
        attention = {name: arrays.pop(name) for name in ("w_q", "w_m", "v")}
        return {"cell": _read(self.cell, "", _grad), "attention": attention, **arrays}


class _CharLM(nn.Module):
    """Embedding, LSTM, logits."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        s, given = problem.case.sizes, problem.params
        self.embedding, self.rnn = nn.Embedding(s["V"], s["I"]), nn.LSTM(s["I"], s["H"])
        self.readout = nn.Linear(s["H"], s["V"])
        _fill(self.rnn, "_l0", given["cell"])
        with torch.no_grad():
            self.embedding.weight.copy_(torch.tensor(given["embedding"]))
            self.readout.weight.copy_(torch.tensor(given["w_o"].T))
            self.readout.bias.copy_(torch.tensor(given["b_o"]))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.readout(self.rnn(self.embedding(tokens))[0])

    def read(self) -> Tree:
        """The parameters themselves."""
        readout = {"w_o": _array(self.readout.weight).T, "b_o": _array(self.readout.bias)}
        return {"embedding": _array(self.embedding.weight), "cell": _read(self.rnn, "_l0", _array), **readout}


def _gradient(models: list[Any], inputs: Tree, data: Tree) -> tuple[Callable[[], Any], Tree, dict[str, Any]]:
    """Loss, outputs and gradients; several models one after another, as torch cannot vmap its recurrent layers."""
    leaves = [value.requires_grad_() for value in inputs.values()]

    def one(model: Any) -> torch.Tensor:
        model.zero_grad()
        for leaf in leaves:
            leaf.grad = None
        ys = model(inputs, data)
        (ys * data["weights"]).sum().backward()
        return ys

    def run() -> None:
        for model in models:
            one(model)
        _wait()

    found: list[Tree] = []
    started = time.perf_counter()
    for model in models:
        ys = one(model)
        found.append({"ys": _array(ys), "params": model.read(), "inputs": {k: _grad(v) for k, v in inputs.items()}})
    facts = {"first_call_s": time.perf_counter() - started}
    if len(models) == 1:
        return run, found[0], facts
    stacked: Tree = {"ys": np.stack([one["ys"] for one in found])}
    stacked["inputs"] = {name: np.stack([one["inputs"][name] for one in found]) for name in inputs}
    return run, {**stacked, "params": {str(i): one["params"] for i, one in enumerate(found)}}, facts


def _update(model: Any, data: Tree) -> tuple[Callable[[], Any], Tree, dict[str, Any]]:
    """A step of Adam; see `benchmarks.programs` for its epsilon."""
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, eps=1e-4, fused=True)
    tokens, targets = data["tokens"].long(), data["targets"].long()

    def run() -> torch.Tensor:
        optimizer.zero_grad()
        logits = model(tokens)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()
        _wait()
        return loss

    before = {name: value.copy() for name, value in flat(model.read()).items()}
    started = time.perf_counter()
    loss = run()
    facts = {"first_call_s": time.perf_counter() - started}
    after = flat(model.read())
    moved = {name: (before[name] - after[name]) / RATE for name in before}
    return run, {"loss": _array(loss), "update": moved}, facts


def _stream(problem: Problem, xs: torch.Tensor) -> tuple[Callable[[], Any], Tree, dict[str, Any]]:
    """One step of `nn.LSTM`, from a sample on the host to an output on the host."""
    model = _Recurrent(problem).rnn
    samples = [np.ascontiguousarray(x) for x in problem.inputs["xs"]]
    carry: list[Any] = [None]

    def run(x: np.ndarray = samples[0]) -> np.ndarray:
        with torch.inference_mode():
            y, carry[0] = model(torch.from_numpy(x)[None].to(DEVICE), carry[0])
            return y[0].cpu().numpy()

    started = time.perf_counter()
    ys = [run()]
    facts = {"first_call_s": time.perf_counter() - started}
    ys += [run(x) for x in samples[1:]]
    return run, {"ys": np.stack(ys)}, facts


def _fill(module: Any, suffix: str, weights: Tree) -> None:
    """Puts our weights into a module. Of two biases the second is zero, but for b_hn."""
    second = np.zeros_like(weights["b"])
    if "b_hn" in weights:
        second[-len(weights["b_hn"]) :] = weights["b_hn"]
    arrays = {"weight_ih": weights["w_x"].T, "weight_hh": weights["w_h"].T, "bias_ih": weights["b"], "bias_hh": second}
    with torch.no_grad():
        for name, array in arrays.items():
            getattr(module, name + suffix).copy_(torch.tensor(array))


def _read(module: Any, suffix: str, value: Callable[[Any], np.ndarray]) -> Tree:
    """What `value` takes from the weights of a module, in our layout; both biases have the gradient of our one."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    w_x, w_h, b, second = (value(getattr(module, name + suffix)) for name in names)
    weights = {"w_x": w_x.T, "w_h": w_h.T, "b": b}
    return weights | ({"b_hn": np.split(second, 3)[2]} if isinstance(module, nn.GRU | nn.GRUCell) else {})


def _tensors(tree: Tree) -> Tree:
    return {name: torch.tensor(value, device=DEVICE) for name, value in tree.items()}


def _array(value: torch.Tensor) -> np.ndarray:
    return value.detach().cpu().numpy().copy()


def _grad(value: torch.Tensor) -> np.ndarray:
    assert value.grad is not None
    return value.grad.cpu().numpy().copy()


def _wait() -> None:
    """Waits for the device; nothing to do on a CPU."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
