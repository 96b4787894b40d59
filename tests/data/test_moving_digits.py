import math

import numpy as np
import pytest

from rnn_jax.data.digits import Digits, load_optdigits
from rnn_jax.data.moving_digits import moving_digits, render

BAR = Digits(np.array([[[10, 20, 30], [40, 50, 60]], [[70, 80, 90], [100, 110, 120]]], np.uint8), np.array([4, 9]))


def bounce(place: float, velocity: float, wall: float, steps: int) -> list[tuple[float, float]]:
    """A ball between 0 and a wall, moved in steps so small that it meets one wall at most."""
    track = [(place, velocity)]
    for _ in range(steps):
        place += velocity
        if place > wall:
            place, velocity = 2 * wall - place, -velocity
        elif place < 0:
            place, velocity = -place, -velocity
        track.append((place, velocity))
    return track


def test_digits_fly_as_a_ball_bounces():
    videos = moving_digits(BAR, 7, 30, 9, num_digits=2, speed=(1.0, 3.0), seed=3)
    for n, d, axis in np.ndindex(7, 2, 2):
        place, velocity = videos.places[n, 0, d, axis], videos.velocities[n, 0, d, axis]
        expected = bounce(place, velocity, (6, 7)[axis], 29)
        np.testing.assert_allclose(videos.places[n, :, d, axis], [one for one, _ in expected], atol=1e-9)
        np.testing.assert_allclose(videos.velocities[n, :, d, axis], [other for _, other in expected], atol=1e-9)
    assert (videos.labels == BAR.labels[videos.chosen]).all()
    fastness = np.linalg.norm(videos.velocities, axis=-1)
    assert fastness.min() >= 1 - 1e-9
    assert fastness.max() <= 3 + 1e-9


def test_a_frame_shows_each_picture_where_it_is():
    videos = moving_digits(BAR, 3, 4, 7, num_digits=2, speed=(0.5, 1.0))
    for n, t in np.ndindex(3, 4):
        frame = np.zeros((7, 7), np.uint8)
        for d in range(2):
            for row, column in np.ndindex(2, 3):
                x, y = (round(value) for value in videos.places[n, t, d].tolist())
                value = BAR.images[videos.chosen[n, d], row, column]
                frame[y + row, x + column] = max(frame[y + row, x + column], value)
        np.testing.assert_array_equal(videos.frames[n, t], frame)


def test_what_is_outside_is_cut_off():
    places = np.array([[-2, 0], [0, -1], [5, 6], [-50, 3], [6.6, 50]], float).reshape(1, 5, 1, 2)
    frames = render(BAR.images, [[0]], places, 7)[0]
    assert frames[0, :2, 0].tolist() == [30, 60]
    assert frames[0, :, 1:].max() == 0
    assert frames[1, 0, :3].tolist() == [40, 50, 60]
    assert frames[2, 6, 5:].tolist() == [10, 20]
    assert frames[3:].max() == 0


def test_places_in_every_frame_are_even_and_know_nothing_of_the_direction():
    videos = moving_digits(load_optdigits(), 4000, 6, 16, headings=8, seed=1)
    x, y = np.moveaxis(videos.velocities[:, :, 0], -1, 0)
    heading = np.rint(np.arctan2(y, x) / (math.pi / 4)).astype(int) % 8
    for t in range(6):
        counts = np.bincount(heading[:, t], minlength=8)
        assert abs(counts - 500).max() < 90  # four standard deviations
        for k in range(8):
            place = videos.places[heading[:, t] == k, t, 0]
            assert abs(place.mean(0) - 4).max() < 0.5
            assert abs(place.std(0) - 8 / math.sqrt(12)).max() < 0.3


def test_the_same_seed_gives_the_same_videos():
    one, two, other = (moving_digits(BAR, 5, 3, 9, seed=seed).frames for seed in (0, 0, 1))
    assert (one == two).all()
    assert (one != other).any()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"num_videos": 0}, "`num_videos` must be at least 1, got 0"),
        ({"num_digits": 0}, "`num_digits` must be at least 1, got 0"),
        ({"size": 3}, r"`size` must be larger than the pictures, \(2, 3\), got 3"),
        ({"speed": (2.0, 1.0)}, "`speed` must satisfy 0 < least <= greatest <= 6, got"),
        ({"speed": (1.0, 7.0)}, "`speed` must satisfy"),
        ({"headings": 5}, "`headings` must be an even number or None, got 5"),
    ],
)
def test_videos_that_cannot_be_are_refused(options, text):
    arguments = {"num_videos": 2, "num_frames": 3, "size": 9, **options}
    with pytest.raises(ValueError, match=text):
        moving_digits(BAR, **arguments)
