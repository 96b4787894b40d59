"""Folders of videos as people download them: UCF-101 and KTH, in their official splits, and frames out of any file."""

import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageSequence

from rnn_jax.data.splits import Splits

__all__ = ["Clip", "Clips", "frame_numbers", "kth_clips", "read_clip", "ucf101_clips", "write_gif"]

KTH_PEOPLE = Splits(
    train=(11, 12, 13, 14, 15, 16, 17, 18),
    valid=(19, 20, 21, 23, 24, 25, 1, 4),
    test=(22, 2, 3, 5, 6, 7, 8, 9, 10),
)
"""Who is in which part, as the authors' file 00sequences.txt says."""

_KTH_FILE = re.compile(r"person(\d\d)_([a-z]+)_d\d")
_UCF_GROUP = re.compile(r"_g(\d\d)_c\d\d\.")
_PILLOW = {".gif", ".webp", ".png", ".apng"}


class Clip(NamedTuple):
    """A part of a video file and what is seen there."""

    path: pathlib.Path
    label: int
    start: int = 0  # its first frame
    stop: int | None = None  # the first frame after it; None: up to the end


class Clips(NamedTuple):
    """The clips of a data set."""

    splits: Splits[Clip]
    names: tuple[str, ...]  # of the labels


def ucf101_clips(
    videos: str | os.PathLike[str],
    lists: str | os.PathLike[str],
    split: int = 1,
    valid_groups: tuple[int, ...] = (24, 25),
) -> Clips:
    """UCF-101 in one of its three official splits.

    Args:
        videos: the folder `UCF-101`, with one folder for each of the 101 actions.
        lists: the folder `ucfTrainTestlist`, with `classInd.txt`, `trainlist01.txt`, `testlist01.txt` and so on.
        split: 1, 2 or 3.
        valid_groups: groups (videos of one scene) of the official training part that are held out for validation.

    Returns:
        The clips, each a whole file, and the names of the actions.

    Raises:
        ValueError: if a list has a line that is none.
        FileNotFoundError: if a list, or a video that it names, is missing.

    References:
        Soomro, Zamir & Shah, UCF101: a dataset of 101 human actions classes from videos in the wild, 2012,
        arXiv:1212.0402.
    """
    videos, lists = pathlib.Path(videos), pathlib.Path(lists)
    names = tuple(line.split()[1] for line in _lines(lists / "classInd.txt"))

    def listed(file: str) -> list[Clip]:
        clips = []
        for line in _lines(lists / file):
            name = line.split()[0]
            action = name.partition("/")[0]
            if action not in names or not _UCF_GROUP.search(name):
                raise ValueError(f"`lists`: {file} must have lines like Action/v_Action_g01_c01.avi, got {line!r}")
            clips.append(Clip(videos / name, names.index(action)))
        missing = [clip.path for clip in clips if not clip.path.exists()]
        if missing:
            raise FileNotFoundError(
                f"`videos`: {len(missing)} of the files of {file} are missing, such as {missing[0]}"
            )
        return clips

    train, valid = [], []
    for clip in listed(f"trainlist{split:02d}.txt"):
        match = _UCF_GROUP.search(clip.path.name)
        (valid if match and int(match[1]) in valid_groups else train).append(clip)
    return Clips(Splits(tuple(train), tuple(valid), tuple(listed(f"testlist{split:02d}.txt"))), names)


def kth_clips(videos: str | os.PathLike[str]) -> Clips:
    """KTH actions, split by person as published: 8 for training, 8 for validation, 9 for test.

    Args:
        videos: a folder with one folder for each action (boxing, handclapping, ...), with files such as
            `person01_boxing_d1_uncomp.avi`. If the authors' `00sequences.txt` is beside them, each of the stretches
            that it lists is a clip; a file that it does not list is left out. Otherwise a file is a clip.

    Returns:
        The clips, and the names of the actions.

    Raises:
        ValueError: if a file is not named like that, or there is none.
        FileNotFoundError: if there is no such folder.

    References:
        Schuldt, Laptev & Caputo, Recognizing human actions: a local SVM approach, 2004.
    """
    videos = pathlib.Path(videos)
    if not videos.is_dir():
        raise FileNotFoundError(f"`videos`: no folder {videos}")
    names = tuple(sorted(folder.name for folder in videos.iterdir() if folder.is_dir()))
    sequences = videos / "00sequences.txt"
    stretches = _stretches(sequences) if sequences.exists() else None
    parts: tuple[list[Clip], ...] = ([], [], [])
    for label, name in enumerate(names):
        for path in sorted((videos / name).iterdir()):
            match = _KTH_FILE.match(path.name)
            if match is None or match[2] != name:
                raise ValueError(f"`videos`: expected files like person01_{name}_d1_uncomp.avi in {name}/, got {path}")
            part = next((n for n, people in enumerate(KTH_PEOPLE) if int(match[1]) in people), None)
            if part is None:
                raise ValueError(f"`videos`: expected persons 01 to 25, got {path}")
            for start, stop in [(0, None)] if stretches is None else stretches.get(match[0], []):
                parts[part].append(Clip(path, label, start, stop))
    if not any(parts):
        raise ValueError(f"`videos` must hold folders of actions with videos, got none in {videos}")
    return Clips(Splits(*map(tuple, parts)), names)


def _stretches(path: pathlib.Path) -> dict[str, list[tuple[int, int]]]:
    """Lines such as `person01_boxing_d1  frames  1-95, 96-185`, whose numbers start at 1 and include the last."""
    found = {}
    for line in _lines(path):
        name, frames, ranges = (*line.split(maxsplit=2), "", "")[:3]
        if frames == "frames" and _KTH_FILE.fullmatch(name):
            found[name] = [(int(a) - 1, int(b)) for a, b in re.findall(r"(\d+)-(\d+)", ranges)]
    return found


def _lines(path: pathlib.Path) -> list[str]:
    """The lines of a list that are not empty."""
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def read_clip(clip: Clip, num_frames: int, size: tuple[int, int]) -> np.ndarray:
    """Frames of a clip, evenly apart, grey and resized.

    Args:
        clip: which part of which file. GIF, WebP and animated PNG are read by Pillow, all else by PyAV
            (`pip install av`).
        num_frames: T; see `frame_numbers`.
        size: height and width in pixels.

    Returns:
        [T, height, width] uint8.

    Raises:
        ValueError: if the file holds no frame there, or is no video.
        FileNotFoundError: if there is no such file.
        ModuleNotFoundError: if it takes PyAV, and that is not installed.
    """
    if not clip.path.exists():
        raise FileNotFoundError(f"`clip`: no file {clip.path}")
    height, width = size
    frames = []
    for number, picture in enumerate(_decode(clip.path)):
        if clip.stop is not None and number >= clip.stop:
            break
        if number >= clip.start:
            grey = picture.convert("L").resize((width, height), Image.Resampling.BILINEAR)
            frames.append(np.asarray(grey))
    if not frames:
        raise ValueError(f"`clip` must hold at least one frame, got none from frame {clip.start} on in {clip.path}")
    return np.stack(frames)[frame_numbers(len(frames), num_frames)]


def frame_numbers(length: int, num_frames: int) -> np.ndarray:
    """Which frames stand for a video: the middles of `num_frames` equal parts, from the first to the last.

    Args:
        length: of the video; a short one repeats frames, and one of a single frame stands still.
        num_frames: how many are wanted.

    Returns:
        [num_frames] int64, rising.

    Raises:
        ValueError: if a number is not positive.

    Example:
        >>> frame_numbers(10, 5).tolist(), frame_numbers(2, 4).tolist(), frame_numbers(1, 3).tolist()
        ([1, 3, 5, 7, 9], [0, 0, 1, 1], [0, 0, 0])
    """
    if length < 1 or num_frames < 1:
        raise ValueError(f"`length` and `num_frames` must be at least 1, got {length} and {num_frames}")
    return ((np.arange(num_frames) + 0.5) * length / num_frames).astype(int)


def _decode(path: pathlib.Path) -> Iterator[Image.Image]:
    """The frames of a video file as pictures."""
    if path.suffix.lower() in _PILLOW:
        try:
            with Image.open(path) as file:
                yield from ImageSequence.Iterator(file)
        except Image.UnidentifiedImageError as error:
            raise ValueError(f"`clip` must be a video, got {path}: {error}") from error
        return
    try:
        import av  # pyrefly: ignore[missing-import]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"reading {path} needs PyAV; run `pip install av`") from error
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                yield frame.to_image()
    except (av.error.FFmpegError, IndexError) as error:
        raise ValueError(f"`clip` must be a video, got {path}: {error}") from error


def write_gif(
    path: str | os.PathLike[str], frames: Any, *, zoom: int = 1, frames_per_second: float = 5.0
) -> pathlib.Path:
    """Writes frames as an endless GIF.

    Args:
        path: the file; missing folders are made.
        frames: [T, height, width] uint8 (grey) or [T, height, width, 3] (colours).
        zoom: pixels on the screen for one of a frame.
        frames_per_second: at most 50; GIF counts in hundredths of a second.

    Returns:
        The path.

    Raises:
        ValueError: if frames are not of that kind.
    """
    frames, path = np.asarray(frames), pathlib.Path(path)
    grey = frames.ndim == 3
    if not len(frames) or frames.dtype != np.uint8 or not (grey or (frames.ndim == 4 and frames.shape[-1] == 3)):
        raise ValueError(
            f"`frames` must be uint8 [T, height, width] or [T, height, width, 3], got {frames.dtype} "
            f"{list(frames.shape)}"
        )
    pictures = [Image.fromarray(frame.repeat(zoom, 0).repeat(zoom, 1)) for frame in frames]
    path.parent.mkdir(parents=True, exist_ok=True)
    duration = round(1000 / frames_per_second)
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=duration, loop=0, optimize=False)
    return path
