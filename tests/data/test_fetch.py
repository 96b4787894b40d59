import hashlib
import http.server
import importlib
import re
import threading

import pytest

from rnn_jax.data import REGISTRY, DamagedFileError, Entry, Member, cache_dir, fetch

GOOD = b"the published bytes\n"
BAD = b"other bytes\n"
PATH = "folder/data.bin"


@pytest.fixture
def served(tmp_path):
    """A folder served over HTTP on loopback: (folder, base URL, list of requested paths)."""
    folder = tmp_path / "served"
    folder.mkdir()
    requested = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, directory=str(folder), **kwargs)

        def log_request(self, code="-", size="-"):
            requested.append(self.path)

        def log_message(self, format, *args):
            """Keep the test output clean."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}", requested
        server.shutdown()
        thread.join()


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Empty data and cache directories, both named in the environment."""
    data, cache = tmp_path / "data", tmp_path / "cache"
    monkeypatch.setenv("RNN_JAX_DATA", str(data))
    monkeypatch.setenv("RNN_JAX_CACHE", str(cache))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return data, cache


def table(url=None, member=None) -> dict[str, Entry]:
    return {"thing": Entry(PATH, hashlib.sha256(GOOD).hexdigest(), "none", url, member)}


def put(root, content) -> None:
    (root / PATH).parent.mkdir(parents=True, exist_ok=True)
    (root / PATH).write_bytes(content)


def install(folder, monkeypatch, content) -> Member:
    """An installed distribution `shipper 1.0` that holds the data."""
    info = folder / "shipper-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shipper\nVersion: 1.0\n")
    (folder / "shipper").mkdir()
    (folder / "shipper" / "data.bin").write_bytes(content)
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    return Member("shipper==1.0", "shipper/data.bin")


def test_the_data_directory_comes_before_the_cache(places, served):
    data, cache = places
    put(data, GOOD)
    put(cache, GOOD)
    assert fetch("thing", table(f"{served[1]}/data.bin")) == data / PATH
    assert served[2] == []


def test_the_cache_comes_before_the_url(places, served):
    put(places[1], GOOD)
    assert fetch("thing", table(f"{served[1]}/data.bin")) == places[1] / PATH
    assert served[2] == []


def test_a_download_is_verified_and_kept_in_the_cache(places, served):
    folder, url, requested = served
    (folder / "data.bin").write_bytes(GOOD)
    for _ in range(2):
        path = fetch("thing", table(f"{url}/data.bin"))
        assert path == places[1] / PATH
        assert path.read_bytes() == GOOD
    assert requested == ["/data.bin"]


def test_the_url_comes_before_an_installed_package(places, served, tmp_path, monkeypatch):
    folder, url, _ = served
    (folder / "data.bin").write_bytes(GOOD)
    member = install(tmp_path / "site", monkeypatch, GOOD)
    assert fetch("thing", table(f"{url}/data.bin", member)) == places[1] / PATH


def test_an_installed_package_is_the_last_place(places, served, tmp_path, monkeypatch):
    member = install(tmp_path / "site", monkeypatch, GOOD)
    for url in (None, f"{served[1]}/missing.bin"):
        assert fetch("thing", table(url, member)) == tmp_path / "site" / "shipper" / "data.bin"


def test_where_nothing_is_found_the_error_names_every_place_and_every_remedy(places, served):
    data, cache = places
    url = f"{served[1]}/missing.bin"
    with pytest.raises(FileNotFoundError) as caught:
        fetch("thing", table(url, Member("shipper==1.0", "shipper/data.bin")))
    lines = str(caught.value).splitlines()
    assert lines[0] == "data set 'thing' was not found. Tried, in order:"
    assert lines[1] == f"  - RNN_JAX_DATA: no file {data / PATH}"
    assert lines[2] == f"  - cache: no file {cache / PATH}"
    assert lines[3].startswith(f"  - URL: {url} (HTTPError: 404")
    assert lines[4] == "  - package: no installed shipper==1.0 with shipper/data.bin"
    assert lines[5:] == [
        "Do one of these:",
        f"  - put the file below a directory as {PATH} and set RNN_JAX_DATA to the directory",
        f"  - download {url} and save it as {cache / PATH}",
        "  - run `pip install --no-deps shipper==1.0`",
    ]


def test_without_a_network_the_error_is_the_same_kind(places):
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        port = server.server_port  # closed again: nobody listens
    with pytest.raises(FileNotFoundError, match=rf"127\.0\.0\.1:{port}/data\.bin \(ConnectionError"):
        fetch("thing", table(f"http://127.0.0.1:{port}/data.bin"))
    assert not (places[1] / PATH).exists()


def test_unset_variables_are_reported_as_such(tmp_path, monkeypatch):
    monkeypatch.delenv("RNN_JAX_DATA", raising=False)
    monkeypatch.setenv("RNN_JAX_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"RNN_JAX_DATA: not set\n.*\n.*URL: none known\n.*package: none known"):
        fetch("thing", table())


@pytest.mark.parametrize("place", ["data", "cache"])
def test_a_damaged_file_is_named_with_both_hashes_and_left_alone(places, served, place):
    folder, url, requested = served
    (folder / "data.bin").write_bytes(GOOD)
    root = places[0] if place == "data" else places[1]
    put(root, BAD)
    expected, found = (hashlib.sha256(content).hexdigest() for content in (GOOD, BAD))
    message = f"{root / PATH} is damaged or another version: expected SHA-256 {expected}, found {found}"
    with pytest.raises(DamagedFileError, match=re.escape(message) + r"\. Remedy: \w+"):
        fetch("thing", table(f"{url}/data.bin"))
    assert (root / PATH).read_bytes() == BAD
    assert requested == []


def test_a_damaged_file_in_a_package_is_an_error(places, tmp_path, monkeypatch):
    member = install(tmp_path / "site", monkeypatch, BAD)
    with pytest.raises(DamagedFileError, match=r"Remedy: install shipper==1\.0 again"):
        fetch("thing", table(member=member))


def test_a_damaged_download_is_an_error_and_leaves_nothing_behind(places, served):
    folder, url, _ = served
    (folder / "data.bin").write_bytes(BAD)
    with pytest.raises(DamagedFileError, match=rf"{re.escape(url)}/data\.bin gave a damaged file"):
        fetch("thing", table(f"{url}/data.bin"))
    assert list((places[1] / PATH).parent.iterdir()) == []


def test_the_cache_is_the_users_unless_the_environment_names_one(tmp_path, monkeypatch):
    monkeypatch.setenv("RNN_JAX_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("RNN_JAX_CACHE")
    assert cache_dir().name == "rnn_jax"


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"`name` must be one of .*jsb, .*tinyshakespeare.*, got 'bible'"):
        fetch("bible")


WITHOUT_A_DOWNLOAD = {"ar_skeleton", "fsdd", "protein_profiles"}  # their loaders say how the file is made


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_every_entry_is_complete_and_below_the_data_directory(name):
    entry = REGISTRY[name]
    assert re.fullmatch(r"[0-9a-f]{64}", entry.sha256)
    assert not entry.path.startswith("/")
    assert ".." not in entry.path
    assert entry.licence
    assert bool(entry.url or entry.member) == (name not in WITHOUT_A_DOWNLOAD)
    assert entry.url is None or entry.url.startswith("https://")


def test_entries_are_distinct():
    assert len({entry.sha256 for entry in REGISTRY.values()}) == len(REGISTRY)
    assert len({entry.path for entry in REGISTRY.values()}) == len(REGISTRY)
