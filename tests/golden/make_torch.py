"""Writes torch.npz: outputs and final states of small torch networks with their weights, on ragged sequences.

Run `python tests/golden/make_torch.py` with torch installed. Names in the file are "case/weights/NAME",
"case/xs" [T, B, I], "case/lengths" [B], "case/ys" [T, B, O], "case/h_n" and, for the LSTM, "case/c_n" (as torch orders
them), and "case/mode".
"""

from pathlib import Path

import numpy as np

PATH = Path(__file__).with_name("torch.npz")
LENGTHS = [4, 6, 1]
CASES = {
    "lstm": ("LSTM", {"num_layers": 2, "bidirectional": True}),
    "lstm_projected": ("LSTM", {"num_layers": 2, "bidirectional": True, "proj_size": 2}),
    "gru": ("GRU", {"num_layers": 2, "bidirectional": True}),
    "rnn": ("RNN", {"num_layers": 2, "bidirectional": True}),
    "rnn_relu": ("RNN", {"num_layers": 1, "nonlinearity": "relu"}),
}


def main() -> None:
    """Writes the file."""
    import torch

    torch.manual_seed(7)
    arrays: dict[str, np.ndarray] = {}
    for name, (kind, options) in CASES.items():
        module = getattr(torch.nn, kind)(3, 4, **options)
        xs = torch.randn(max(LENGTHS), len(LENGTHS), 3)
        packed = torch.nn.utils.rnn.pack_padded_sequence(xs, torch.tensor(LENGTHS), enforce_sorted=False)
        with torch.no_grad():
            out, final = module(packed)
        ys, _ = torch.nn.utils.rnn.pad_packed_sequence(out)
        states = dict(zip(("h_n", "c_n"), final if kind == "LSTM" else (final,), strict=False))
        weights = {f"weights/{key}": value for key, value in module.state_dict().items()}
        for key, value in {"xs": xs, "ys": ys, **states, **weights}.items():
            arrays[f"{name}/{key}"] = value.numpy()
        arrays[f"{name}/lengths"] = np.array(LENGTHS, np.int32)
        arrays[f"{name}/mode"] = np.array(module.mode)
    np.savez_compressed(PATH, **arrays)


if __name__ == "__main__":
    main()
