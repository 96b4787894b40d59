"""Data: where it comes from, batches of it, and music to hear. NumPy first; nothing here imports JAX.

- `fetch`: find, verify and if needed download a published file by name.
- `chorales`: Bach's chorales with onsets, fermatas and bars, embedded in the package.
- `piano_rolls`: the four polyphonic music data sets of Boulanger-Lewandowski et al.
- `batching`: padding, shuffling and grouping by length as pure functions.
- `audio`: notes to MIDI, sound and WAV files.
"""

from rnn_jax.data.audio import Note, roll_notes, synthesize, voice_notes, write_midi, write_wav
from rnn_jax.data.batching import Batch, batches, epoch_order, pad, padded_fraction
from rnn_jax.data.chorales import VOICES, Chorale, load_chorales, transpose, voice_ranges
from rnn_jax.data.fetch import REGISTRY, DamagedFileError, Entry, Member, cache_dir, fetch
from rnn_jax.data.piano_rolls import LOWEST_KEY, load_piano_rolls
from rnn_jax.data.splits import Splits

__all__ = [
    "LOWEST_KEY",
    "REGISTRY",
    "VOICES",
    "Batch",
    "Chorale",
    "DamagedFileError",
    "Entry",
    "Member",
    "Note",
    "Splits",
    "batches",
    "cache_dir",
    "epoch_order",
    "fetch",
    "load_chorales",
    "load_piano_rolls",
    "pad",
    "padded_fraction",
    "roll_notes",
    "synthesize",
    "transpose",
    "voice_notes",
    "voice_ranges",
    "write_midi",
    "write_wav",
]
