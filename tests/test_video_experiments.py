"""The parts of the experiments on videos and pictures that can be wrong without anyone seeing it in a curve."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import moving_digits, sequential_mnist, video, video_clips
from experiments._pixels import forecaster, frame_cnn, from_patches, to_patches
from rnn_jax import conv_lstm, gru, stream_step
from rnn_jax.data.motions import Motions
from rnn_jax.data.video_folders import write_gif


@pytest.fixture(autouse=True)
def usual_promotion():
    """Experiments run as users run them."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def test_patches_hold_the_pixels_of_their_block():
    frames = numbers(2, 3, 4, 6)
    blocks = np.asarray(to_patches(jnp.asarray(frames), 2))
    assert blocks.shape == (2, 3, 2, 3, 4)
    np.testing.assert_array_equal(blocks[1, 2, 1, 2], frames[1, 2, 2:4, 4:6].ravel())
    np.testing.assert_array_equal(from_patches(jnp.asarray(blocks), 2), frames)


@pytest.mark.parametrize(("make", "space"), [(gru, ()), (partial(conv_lstm, kernel_size=(3, 3)), (4, 3))])
def test_a_forecaster_is_two_stacks_one_upside_down(make, space):
    sizes, cells = (3, 2), [make(3), make(2)]
    net = forecaster(make, sizes, num_features=4)
    params, xs = net.init(jax.random.key(0)), jnp.asarray(numbers(2, 5, *space, 4))
    carries = [cell.init_carry(one, xs.shape[1:-1]) for cell, one in zip(cells, params.encoder, strict=True)]
    for x in xs:
        for n, cell in enumerate(cells):
            carries[n], x = stream_step(cell, params.encoder[n], carries[n], x)
    carries, cells, expected, frame = carries[::-1], cells[::-1], [], xs[-1]
    for _ in range(3):
        hs, x = [], frame
        for n, cell in enumerate(cells):
            carries[n], x = stream_step(cell, params.decoder[n], carries[n], x)
            hs.append(x)
        expected.append(jnp.concatenate(hs, -1) @ params.readout.w + params.readout.b)
        frame = 1 / (1 + jnp.exp(-expected[-1]))
    np.testing.assert_allclose(net.apply(params, xs, 3), jnp.stack(expected), atol=1e-5)


def test_frames_go_through_the_convolutions_one_by_one():
    net, xs = frame_cnn((5, 4), (3, 2)), jnp.asarray(numbers(2, 3, 5, 4, 1))
    params = net.init(jax.random.key(1), 1)
    together = net.apply(params, xs)[1]
    assert together.shape == (2, 3, 2 * 1 * 2)
    assert (together >= 0).all()
    np.testing.assert_allclose(together[1:, 2:], net.apply(params, xs[1:, 2:])[1], atol=1e-6)


def test_grey_levels_get_the_probability_that_costs_least():
    rng = np.random.default_rng(0)
    guess, truth = rng.choice([0, 90, 255], (6, 2, 3, 3)).astype(np.uint8), rng.integers(0, 256, (6, 2, 3, 3))
    levels = moving_digits.fit_levels(guess, truth.astype(np.uint8))

    def cost(levels: np.ndarray) -> np.ndarray:
        p = np.stack([row[one] for row, one in zip(levels, np.moveaxis(guess, 1, 0), strict=True)], axis=1)
        return moving_digits.nats_by_frame(p, truth / 255)

    for k, level, change in [(0, 0, 0.01), (0, 90, -0.01), (1, 255, 0.01)]:
        worse = levels.copy()
        worse[k, level] += change
        assert cost(worse)[k] > cost(levels)[k]
    p, y = 0.3, 0.8
    assert moving_digits.nats_by_frame(np.full((1, 1, 1, 2), p), np.full((1, 1, 1, 2), y))[0] == pytest.approx(
        -2 * (y * np.log(p) + (1 - y) * np.log(1 - p))
    )


def test_digits_that_fly_on_are_where_they_are_until_they_meet_a_wall():
    config = moving_digits.Config(num_train=20, num_valid=1, num_test=1)
    videos = moving_digits.load_videos(config)
    guesses = moving_digits.guesses(config, videos.parts[0], videos.images[0])
    truth = videos.parts[0].frames[:, config.frames_in :]
    velocity = videos.parts[0].velocities[:, :, 0]
    straight = (velocity[:, config.frames_in :] == velocity[:, config.frames_in - 1, None]).all((1, 2))
    assert straight.any()
    assert not straight.all()
    np.testing.assert_array_equal(guesses["constant_velocity"][straight], truth[straight])
    assert (guesses["constant_velocity"][~straight] != truth[~straight]).any()


def test_stretched_motion_is_interpolated():
    points = numbers(9, 2, 1, 2)
    start, length = np.array([0.0, 0.25], np.float32), np.array([1.0, 0.6], np.float32)
    found = video.stretched(jnp.asarray(points), jnp.asarray(start), jnp.asarray(length))
    for b, c in np.ndindex(2, 2):
        times = 8 * (start[b] + length[b] * np.linspace(0, 1, 9))
        np.testing.assert_allclose(found[:, b, 0, c], np.interp(times, np.arange(9), points[:, b, 0, c]), atol=1e-5)


@pytest.mark.parametrize("points", [1, 25])
def test_the_beginning_of_a_video_is_judged_without_its_end(points):
    config = video.Config(cell="elman", hidden_size=3)
    net, xs = video.network(config, 4), 100 + 9 * numbers(6, 2, points, 2)
    size = video.features(jnp.asarray(xs)).shape[-1]
    params = net.init(jax.random.key(0), config, size)
    changed = np.concatenate([xs[:4], 7 - xs[4:]])
    one, other = (net.log_probabilities(params, jnp.asarray(value), jnp.int32(4)) for value in (xs, changed))
    np.testing.assert_allclose(one, other, atol=1e-6)
    whole = net.log_probabilities(params, jnp.asarray(xs))
    np.testing.assert_allclose(whole, net.log_probabilities(params, jnp.asarray(xs), jnp.int32(6)), atol=1e-5)
    assert abs(one - whole).max() > 1e-3


def test_every_video_is_tested_once_and_never_seen_before():
    motions, folds = video.load(video.Config())
    runs = video.side_by_side(folds, seeds=2, num_videos=len(motions.labels))
    assert (runs.test.sum(0) == 2).all()
    for ids, count, valid, test in zip(*runs, strict=True):
        assert len(set(ids[:count])) == len(set(ids)) == count
        parts = [set(motions.groups[part]) for part in (ids, valid, test)]
        assert not parts[0] & parts[1]
        assert not parts[0] & parts[2]
        assert not parts[1] & parts[2]


def test_ridge_finds_a_class_that_is_a_sum_of_coordinates():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(90, 4, 1, 2)).astype(np.float32)
    labels = (points.sum((1, 2, 3)) > 0).astype(np.int32)
    motions = Motions(points, labels, np.arange(90), ("low", "high"))
    folds = [
        video.Fold(np.arange(30, 90), np.arange(15), np.arange(30)),
        video.Fold(*np.split(np.arange(90), [45, 60])),
    ]
    assert video.ridge(motions, folds[:1]) * 3 > 0.85  # of a third of the videos


def test_pixels_come_row_by_row():
    images = np.arange(2 * 4 * 6, dtype=np.uint8).reshape(2, 4, 6)
    assert sequential_mnist.to_pixels(images)[:, 1].tolist() == pytest.approx((np.arange(24, 48) / 255).tolist())
    assert sequential_mnist.pool(images)[0].tolist() == [[3.5, 5.5, 7.5], [15.5, 17.5, 19.5]]


def test_a_folder_of_clips_is_a_data_set(tmp_path):
    for name, level in (("boxing", 10), ("walking", 200)):
        for person in (11, 19, 22):
            frames = np.full((4, 6, 6), level, np.uint8)
            frames[1:, :3] = 90
            write_gif(tmp_path / name / f"person{person}_{name}_d1_uncomp.gif", frames)
    data = video_clips.load(video_clips.Config(data="kth", path=str(tmp_path), size=4, num_frames=2))
    assert data.answers == {"action": ("boxing", "walking")}
    for part in data.parts:
        assert part["frames"].shape == (2, 2, 4, 4)
        assert part["action"].tolist() == [0, 1]
    with pytest.raises(ValueError, match="`path` must be the folder of the videos"):
        video_clips.load(video_clips.Config(data="ucf101"))


def test_headings_are_those_of_the_last_frame():
    data = video_clips.load(video_clips.Config(num_train=40, num_valid=1, num_test=1, num_frames=9))
    frames, heading = (data.parts[0][name] for name in ("frames", "heading"))
    ink = frames.astype(float) / frames.sum((2, 3), keepdims=True)
    middle = np.stack([(ink.sum(2) * np.arange(16)).sum(-1), (ink.sum(3) * np.arange(16)).sum(-1)], -1)
    moved = middle[:, -1] - middle[:, -3]
    names = [data.answers["heading"][k] for k in heading]
    right = [m[0] > 0 for m, name in zip(moved, names, strict=True) if name == "right"]
    up = [m[1] < 0 for m, name in zip(moved, names, strict=True) if name == "up"]
    assert np.mean(right + up) > 0.7  # all but those that have just met a wall
