"""Writes librosa.npz: mel filters, energies in bands and slopes as librosa makes them, of sound.

Run `python tests/golden/make_librosa.py` with librosa installed (written with 0.11.0). "samples" [2400] in [-1, 1],
"filters" [129, 40], "energies" [T, 40] of frames that begin every 80 samples, "logs" [T, 40] their logarithms over a
floor of 1e-6, "slopes" [T, 40] of the logarithms.
"""

from pathlib import Path

import numpy as np

PATH = Path(__file__).with_name("librosa.npz")


def main() -> None:
    """Writes the file."""
    import librosa

    rng = np.random.default_rng(7)
    seconds = np.arange(2400) / 8000
    chirp = np.sin(2 * np.pi * (200 * seconds + 5000 * seconds**2)) * np.sin(10 * np.pi * seconds)
    samples = (0.5 * chirp + 0.01 * rng.normal(size=2400)).astype(np.float32)
    bands = {"n_mels": 40, "fmin": 50.0, "fmax": 4000.0, "htk": True, "norm": None}
    filters = librosa.filters.mel(sr=8000, n_fft=256, dtype=np.float64, **bands)
    padded = np.pad(samples.astype(np.float64), (120, 0))
    # librosa puts a short window into the middle of the transform; it begins 28 samples into each frame.
    padded = np.pad(padded, (28, 28))
    spectrum = librosa.stft(padded, n_fft=256, hop_length=80, win_length=200, window="hann", center=False)
    energies = filters @ np.abs(spectrum) ** 2
    logs = np.log(energies + 1e-6)
    slopes = librosa.feature.delta(logs, width=5, mode="nearest")
    arrays = {"filters": filters.T, "energies": energies.T, "logs": logs.T, "slopes": slopes.T}
    np.savez_compressed(PATH, samples=samples, **{name: array.astype(np.float32) for name, array in arrays.items()})


if __name__ == "__main__":
    main()
