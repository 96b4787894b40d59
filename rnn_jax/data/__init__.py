"""Data: where it comes from, batches of it, and music to hear. NumPy and grain; nothing here imports JAX.

- `fetch`: find, verify and if needed download a published file by name.
- `chorales`: Bach's chorales with onsets, fermatas and bars, embedded in the package.
- `piano_rolls`: the four polyphonic music data sets of Boulanger-Lewandowski et al.
- `proteins`: chains of amino acids, profiles, and the secondary structure of each residue.
- `scan_commands`: the commands of SCAN, their actions and the published splits.
- `sentence_pairs`: German-English sentences, and batches of pairs.
- `spoken_digits`: people saying zero to nine, and strings of their recordings.
- `ts_files`: labelled time series of the UCR and UEA archives.
- `vocabulary`: symbols and subwords to ids and back.
- `texts`: long texts as characters or words, and what models without a network make of them.
- `dynamical`: Lorenz 63, published or simulated.
- `batching`: padding, shuffling and grouping by length as pure functions.
- `pipeline`: endless batches, built in the background, that can be put back to any place.
- `windows`: long streams cut into windows for truncated backpropagation.
- `digits`: real handwritten digits: 1,797 embedded, 5,000, and MNIST.
- `moving_digits`: videos of digits that bounce off walls.
- `motions`: a hand that signs and people who act, as points over time; stratified folds.
- `video_folders`: UCF-101 and KTH in their official splits, frames of any video file, GIFs.
- `audio`: notes to MIDI, sound and WAV files, and WAV files to sound.
"""

from rnn_jax.data.audio import Note, read_wav, roll_notes, synthesize, voice_notes, write_midi, write_wav
from rnn_jax.data.batching import Batch, Numbered, batches, epoch_order, pad, padded_fraction
from rnn_jax.data.chorales import VOICES, Chorale, load_chorales, transpose, voice_ranges
from rnn_jax.data.digits import Digits, load_mnist, load_mnist_5k, load_optdigits, read_idx, split_digits
from rnn_jax.data.dynamical import load_lorenz63, lorenz63_step, simulate_lorenz63
from rnn_jax.data.fetch import REGISTRY, DamagedFileError, Entry, Member, cache_dir, fetch
from rnn_jax.data.motions import KEY_POINTS, Motions, load_libras, load_skeletons, stratified_folds
from rnn_jax.data.moving_digits import MovingDigits, moving_digits, render
from rnn_jax.data.piano_rolls import LOWEST_KEY, load_piano_rolls
from rnn_jax.data.pipeline import side_by_side, stream, with_steps
from rnn_jax.data.proteins import (
    Chain,
    encode_residues,
    load_cb513,
    load_protein_chains,
    read_fasta,
    read_structure_db,
    split_by_entry,
)
from rnn_jax.data.scan_commands import ScanPair, enumerate_commands, interpret, scan_split
from rnn_jax.data.sentence_pairs import (
    PaddingReport,
    PairBatch,
    SentencePair,
    load_ding,
    load_multi30k,
    pair_batches,
    pair_stream,
    report_padding,
)
from rnn_jax.data.splits import Splits
from rnn_jax.data.spoken_digits import (
    SPOKEN_DIGITS_RATE,
    DigitString,
    MfccDigit,
    SpokenDigit,
    join_digits,
    load_digit_mfccs,
    load_spoken_digits,
    split_takes,
)
from rnn_jax.data.texts import (
    Text,
    join_symbols,
    kneser_ney_bits,
    load_text,
    read_text,
    split_symbols,
    unigram_bits,
    xz_bits,
)
from rnn_jax.data.ts_files import TIME_SERIES, LabelledSeries, load_time_series, read_ts
from rnn_jax.data.video_folders import Clip, Clips, frame_numbers, kth_clips, read_clip, ucf101_clips, write_gif
from rnn_jax.data.vocabulary import (
    END,
    START,
    UNKNOWN,
    Subwords,
    Vocabulary,
    build_vocabulary,
    decode,
    decode_line,
    encode,
    encode_line,
    load_subwords,
    save_subwords,
    train_subwords,
)
from rnn_jax.data.windows import Passes, Window, Windows, passes, random_lengths, random_windows, streams, windows

__all__ = [
    "END",
    "KEY_POINTS",
    "LOWEST_KEY",
    "REGISTRY",
    "SPOKEN_DIGITS_RATE",
    "START",
    "TIME_SERIES",
    "UNKNOWN",
    "VOICES",
    "Batch",
    "Chain",
    "Chorale",
    "Clip",
    "Clips",
    "DamagedFileError",
    "DigitString",
    "Digits",
    "Entry",
    "LabelledSeries",
    "Member",
    "MfccDigit",
    "Motions",
    "MovingDigits",
    "Note",
    "Numbered",
    "PaddingReport",
    "PairBatch",
    "Passes",
    "ScanPair",
    "SentencePair",
    "Splits",
    "SpokenDigit",
    "Subwords",
    "Text",
    "Vocabulary",
    "Window",
    "Windows",
    "batches",
    "build_vocabulary",
    "cache_dir",
    "decode",
    "decode_line",
    "encode",
    "encode_line",
    "encode_residues",
    "enumerate_commands",
    "epoch_order",
    "fetch",
    "frame_numbers",
    "interpret",
    "join_digits",
    "join_symbols",
    "kneser_ney_bits",
    "kth_clips",
    "load_cb513",
    "load_chorales",
    "load_digit_mfccs",
    "load_ding",
    "load_libras",
    "load_lorenz63",
    "load_mnist",
    "load_mnist_5k",
    "load_multi30k",
    "load_optdigits",
    "load_piano_rolls",
    "load_protein_chains",
    "load_skeletons",
    "load_spoken_digits",
    "load_subwords",
    "load_text",
    "load_time_series",
    "lorenz63_step",
    "moving_digits",
    "pad",
    "padded_fraction",
    "pair_batches",
    "pair_stream",
    "passes",
    "random_lengths",
    "random_windows",
    "read_clip",
    "read_fasta",
    "read_idx",
    "read_structure_db",
    "read_text",
    "read_ts",
    "read_wav",
    "render",
    "report_padding",
    "roll_notes",
    "save_subwords",
    "scan_split",
    "side_by_side",
    "simulate_lorenz63",
    "split_by_entry",
    "split_digits",
    "split_symbols",
    "split_takes",
    "stratified_folds",
    "stream",
    "streams",
    "synthesize",
    "train_subwords",
    "transpose",
    "ucf101_clips",
    "unigram_bits",
    "voice_notes",
    "voice_ranges",
    "windows",
    "with_steps",
    "write_gif",
    "write_midi",
    "write_wav",
    "xz_bits",
]
