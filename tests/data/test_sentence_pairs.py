import gzip

import numpy as np
import pytest

from rnn_jax.data import (
    END,
    REGISTRY,
    DamagedFileError,
    PairBatch,
    load_ding,
    load_multi30k,
    pair_batches,
    report_padding,
)

DICTIONARY = """\
# Version :: devel
Abend {m} | Wir essen zu Abend. | Guten Abend! :: evening | We’re having dinner. | Good evening!
Ding {n} | Das Ding [ugs.] ist gut. | das Ding ist gut. | Was ist das? :: thing | A B C. | It is good. | What is that?
Ähre {f} | Ärger ist überall. :: ear | Trouble is everywhere.
Tür {f} | Die Tür ist zu. :: door | The door is shut. | doors
Tor {n} | Wir essen zu Abend. | Er/Sie ist dort. :: gate | We're having dinner. | He is over there.
"""


@pytest.fixture(scope="module")
def multi30k():
    try:
        return load_multi30k()
    except FileNotFoundError as error:
        pytest.skip(f"Multi30k cannot be found: {error}")


def random_pairs(count, seed=0, longest=20):
    rng = np.random.default_rng(seed)
    return [
        [[*rng.integers(2, 90, rng.integers(1, longest)).tolist(), 100 + side + 2 * i] for i in range(count)]
        for side in (0, 1)
    ]


def test_multi30k_has_the_published_number_of_pairs(multi30k):
    assert [len(part) for part in multi30k] == [29_000, 1_014, 1_000]
    assert multi30k.train[0] == (
        "Zwei junge weiße Männer sind im Freien in der Nähe vieler Büsche.",
        "Two young, White males are outside near many bushes.",
    )
    assert multi30k.test[0][1] == "A man in an orange hat starring at something."
    assert all(side and side == side.strip() for part in multi30k for pair in part for side in pair)


def test_multi30k_in_small_batches_of_few_shapes(multi30k):
    sources, targets = ([range(len(line.split())) for line in side] for side in zip(*multi30k.train, strict=True))
    report = report_padding(pair_batches(sources, targets, 128, seed=0, epoch=0))
    assert report.num_batches == 227  # 226.6
    assert report.num_shapes <= 8
    assert report.padded_fraction < 0.3


def test_a_damaged_file_of_multi30k_is_named(tmp_path, monkeypatch):
    path = tmp_path / REGISTRY["multi30k_train.de"].path
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(b"Zwei\n"))
    monkeypatch.setenv("RNN_JAX_DATA", str(tmp_path))
    with pytest.raises(DamagedFileError, match=r"train\.de\.gz is damaged"):
        load_multi30k()


def test_whole_sentences_are_taken_from_a_dictionary_once(tmp_path):
    path = tmp_path / "de-en"
    path.write_text(DICTIONARY, encoding="utf-8")
    splits = load_ding(path)
    assert sorted(pair for part in splits for pair in part) == [
        ("Was ist das?", "What is that?"),
        ("Wir essen zu Abend.", "We're having dinner."),
        ("Ärger ist überall.", "Trouble is everywhere."),
    ]


def test_a_dictionary_is_split_by_its_german_sentences(tmp_path):
    lines = [f"Das ist Satz {i}. :: This is sentence {i}{j}." for i in range(1000) for j in "ab"]
    (tmp_path / "all").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "some").write_text("\n".join(lines[::-7]), encoding="utf-8")
    everything, some = load_ding(tmp_path / "all"), load_ding(tmp_path / "some")
    assert [len(part) for part in everything] == [1822, 96, 82]
    assert all(set(few) <= set(many) for few, many in zip(some, everything, strict=True))
    german = [{pair[0] for pair in part} for part in everything]
    assert not german[0] & german[1] | german[0] & german[2] | german[1] & german[2]


def test_without_the_dictionary_the_error_says_how_to_install_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`path`: no file .*de-en; run `apt install trans-de-en`"):
        load_ding(tmp_path / "de-en")


def rows(batch):
    """The pairs of a batch, read off step by step, and the check that all else is zero."""
    pairs = []
    for b in range(len(batch.source_lengths)):
        sides = []
        for ids, lengths in (batch[:2], batch[2:]):
            assert ids.dtype == lengths.dtype == np.int32
            assert not ids[lengths[b] :, b].any()
            sides.append(tuple(ids[: lengths[b], b].tolist()))
        pairs.append(tuple(sides))
    return pairs


@pytest.mark.parametrize(("count", "batch_size", "bucket", "multiple"), [(37, 4, 3, 4), (8, 4, 50, 1), (3, 5, 1, 8)])
def test_batches_hold_every_pair_once_and_fill_up_with_empty_ones(count, batch_size, bucket, multiple):
    sources, targets = random_pairs(count)
    batches = list(pair_batches(sources, targets, batch_size, 1, 2, bucket=bucket, multiple=multiple))
    assert len(batches) == -(-count // batch_size)
    found = []
    for batch in batches:
        assert isinstance(batch, PairBatch)
        assert batch.source.shape[1] == batch.target.shape[1] == batch_size
        assert batch.source.shape[0] - batch.source_lengths.max() in range(multiple)
        assert batch.target.shape[0] - batch.target_lengths.max() in range(multiple)
        assert batch.source.shape[0] % multiple == batch.target.shape[0] % multiple == 0
        found += rows(batch)
    expected = [(tuple(source), tuple(target)) for source, target in zip(sources, targets, strict=True)]
    assert sorted(found) == sorted(expected + [((), ())] * (len(batches) * batch_size - count))


def test_batches_are_fixed_by_seed_and_epoch():
    sources, targets = random_pairs(40)

    def order(seed, epoch):
        return [row for batch in pair_batches(sources, targets, 8, seed, epoch) for row in rows(batch)]

    assert order(3, 1) == order(3, 1)
    assert order(3, 1) != order(3, 2)
    assert order(3, 1) != order(4, 1)


def test_a_pair_is_as_long_as_the_longer_of_its_sides():
    lengths = [(40, 3), (2, 38), (39, 2), (3, 40), (1, 1), (1, 2), (2, 1), (2, 2)]
    sources, targets = ([[7] * pair[side] for pair in lengths] for side in (0, 1))
    shapes = {(len(batch.source), len(batch.target)) for batch in pair_batches(sources, targets, 4, 0, 0, multiple=1)}
    assert shapes == {(40, 40), (2, 2)}


def test_the_report_counts_the_padding_of_every_row():
    sources, targets = random_pairs(37)
    batches = list(pair_batches(sources, targets, 4, 0, 0, multiple=4))
    real = sum(map(len, sources)) + sum(map(len, targets))
    held = sum(batch.source.size + batch.target.size for batch in batches)
    shapes = {batch.source.shape + batch.target.shape for batch in batches}
    assert report_padding(iter(batches)) == (10, len(shapes), (held - real) / held)
    assert report_padding([]) == (0, 0, 0.0)


def test_rounding_up_makes_few_shapes_of_many_lengths():
    sources, targets = random_pairs(2000, longest=32)
    fine, coarse = (report_padding(pair_batches(sources, targets, 8, 0, 0, multiple=m)) for m in (1, 8))
    assert coarse.num_shapes <= 16 < 50 < fine.num_shapes
    assert fine.padded_fraction < coarse.padded_fraction


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": [[END]]}, r"`targets` must be as many as `sources`, 2, got 1"),
        ({"multiple": 0}, r"`multiple` must be >= 1, got 0"),
        ({"batch_size": 0}, r"`batch_size` must be >= 1, got 0"),
        ({"epoch": -1}, r"`seed` and `epoch` must be >= 0"),
        ({"sources": [[1], [[2]]]}, r"`sources\[1\]` must be \[T\] integers, got int64 of shape \[1, 1\]"),
        ({"targets": [[1.5], [2]]}, r"`targets\[0\]` must be \[T\] integers, got float64 of shape \[1\]"),
    ],
)
def test_what_cannot_be_batched_is_refused_at_once(changes, message):
    arguments = {"sources": [[1], [2]], "targets": [[3], [4]], "batch_size": 2, "seed": 0, "epoch": 0}
    with pytest.raises(ValueError, match=message):
        pair_batches(**{**arguments, **changes})


def test_empty_sequences_are_batched_like_others():
    (batch,) = pair_batches([[], []], [[END], []], 2, 0, 0, multiple=4)
    assert (batch.source.shape, batch.target.shape) == ((0, 2), (4, 2))
    assert sorted(batch.target_lengths.tolist()) == [0, 1]
