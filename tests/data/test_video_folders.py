import sys

import numpy as np
import pytest
from PIL import Image

from rnn_jax.data.video_folders import Clip, frame_numbers, kth_clips, read_clip, ucf101_clips, write_gif


def grey(*levels: int) -> np.ndarray:
    """Frames of 4 x 6 pixels, each of one level."""
    return np.stack([np.full((4, 6), level, np.uint8) for level in levels])


@pytest.fixture
def kth(tmp_path):
    for name in ("boxing", "walking"):
        for person in (11, 19, 22):
            write_gif(tmp_path / name / f"person{person}_{name}_d1_uncomp.gif", grey(10, 60, 120, 180, 240))
    return tmp_path


@pytest.fixture
def ucf(tmp_path):
    videos, lists = tmp_path / "UCF-101", tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 Archery\n2 YoYo\n")
    groups = {"trainlist02.txt": (8, 24), "testlist02.txt": (1,)}
    for file, numbers in groups.items():
        names = [f"{action}/v_{action}_g{g:02d}_c01.gif" for action in ("Archery", "YoYo") for g in numbers]
        label = " 1" if file.startswith("train") else ""
        (lists / file).write_text("".join(f"{name}{label}\n" for name in names))
        for name in names:
            write_gif(videos / name, grey(0, 200))
    return videos, lists


def test_kth_is_split_by_the_published_persons(kth):
    clips = kth_clips(kth)
    assert clips.names == ("boxing", "walking")
    people = [[clip.path.name[:8] for clip in part] for part in clips.splits]
    assert people == [["person11"] * 2, ["person19"] * 2, ["person22"] * 2]
    assert [clip.label for clip in clips.splits.test] == [0, 1]


def test_kth_takes_the_stretches_of_the_authors_list(kth):
    (kth / "00sequences.txt").write_text(
        "Training: person11, 12, 13\n\nperson11_boxing_d1\t\tframes\t1-2, 4-5\nperson22_walking_d1\tframes\t3-3\n"
    )
    clips = kth_clips(kth).splits
    assert [(clip.start, clip.stop) for clip in clips.train] == [(0, 2), (3, 5)]
    assert clips.valid == ()
    assert read_clip(clips.train[1], 2, (4, 6))[:, 0, 0].tolist() == [180, 240]
    assert read_clip(clips.test[0], 3, (2, 2)).tolist() == [[[120] * 2] * 2] * 3  # a video of one frame stands still


def test_kth_refuses_what_it_cannot_place(kth, tmp_path):
    write_gif(kth / "boxing" / "person26_boxing_d1_uncomp.gif", grey(0, 9))
    with pytest.raises(ValueError, match=r"expected persons 01 to 25, got .*person26"):
        kth_clips(kth)
    (kth / "boxing" / "person26_boxing_d1_uncomp.gif").rename(kth / "boxing" / "holiday.gif")
    with pytest.raises(
        ValueError, match=r"expected files like person01_boxing_d1_uncomp.avi in boxing/, got .*holiday"
    ):
        kth_clips(kth)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="`videos` must hold folders of actions with videos, got none"):
        kth_clips(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="`videos`: no folder"):
        kth_clips(tmp_path / "nowhere")


def test_ucf101_follows_its_lists_and_holds_groups_out_for_validation(ucf):
    clips = ucf101_clips(*ucf, split=2)
    assert clips.names == ("Archery", "YoYo")
    assert [[(clip.path.name, clip.label) for clip in part] for part in clips.splits] == [
        [("v_Archery_g08_c01.gif", 0), ("v_YoYo_g08_c01.gif", 1)],
        [("v_Archery_g24_c01.gif", 0), ("v_YoYo_g24_c01.gif", 1)],
        [("v_Archery_g01_c01.gif", 0), ("v_YoYo_g01_c01.gif", 1)],
    ]
    assert read_clip(clips.splits.test[0], 2, (4, 6)).tolist() == grey(0, 200).tolist()


def test_ucf101_says_what_is_missing_or_wrong(ucf):
    videos, lists = ucf
    with pytest.raises(FileNotFoundError, match=r"trainlist01\.txt"):
        ucf101_clips(videos, lists, split=1)
    (videos / "YoYo" / "v_YoYo_g01_c01.gif").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of the files of testlist02.txt are missing, such as .*v_YoYo_g01"):
        ucf101_clips(videos, lists, split=2)
    (lists / "testlist02.txt").write_text("Skiing/v_Skiing_g01_c01.avi\n")
    with pytest.raises(ValueError, match=r"testlist02.txt must have lines like .*, got 'Skiing/"):
        ucf101_clips(videos, lists, split=2)


@pytest.mark.parametrize(("length", "wanted"), [(1, 1), (1, 5), (3, 2), (7, 7), (100, 16), (16, 100)])
def test_frames_are_the_middles_of_equal_parts(length, wanted):
    expected = [int((2 * k + 1) * length // (2 * wanted)) for k in range(wanted)]
    assert frame_numbers(length, wanted).tolist() == expected


def test_frames_are_resized_and_turned_grey(tmp_path):
    coloured = np.zeros((2, 4, 4, 3), np.uint8)
    coloured[0, ..., 0], coloured[1, ..., 1] = 255, 255
    path = write_gif(tmp_path / "colours.gif", coloured, zoom=2)
    with Image.open(path) as file:
        assert file.size == (8, 8)
        assert file.n_frames == 2
    frames = read_clip(Clip(path, 0), 2, (2, 3))
    assert frames.shape == (2, 2, 3)
    assert abs(frames[:, 0, 0].astype(float) - [76, 150]).max() <= 2  # the luma of red and of green


def test_what_is_no_video_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "clip.gif"
    path.write_bytes(b"not a gif")
    with pytest.raises(ValueError, match=r"`clip` must be a video, got .*clip\.gif"):
        read_clip(Clip(path, 0), 2, (2, 2))
    write_gif(path, grey(1, 2))
    with pytest.raises(ValueError, match="must hold at least one frame, got none from frame 9 on"):
        read_clip(Clip(path, 0, 9), 2, (2, 2))
    with pytest.raises(ValueError, match="must be at least 1, got 2 and 0"):
        read_clip(Clip(path, 0), 0, (2, 2))
    with pytest.raises(FileNotFoundError, match="`clip`: no file"):
        read_clip(Clip(tmp_path / "none.gif", 0), 2, (2, 2))
    film = tmp_path / "clip.avi"
    film.write_bytes(b"RIFF")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ModuleNotFoundError, match=r"clip\.avi needs PyAV; run `pip install av`"):
        read_clip(Clip(film, 0), 2, (2, 2))


def test_a_gif_takes_bytes_only(tmp_path):
    for wrong in (np.zeros((2, 3, 3)), np.zeros((3, 3), np.uint8), np.zeros((0, 3, 3), np.uint8)):
        with pytest.raises(ValueError, match="`frames` must be uint8"):
            write_gif(tmp_path / "wrong.gif", wrong)
