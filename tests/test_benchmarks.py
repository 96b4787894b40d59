"""The benchmark command: its arithmetic, what it does with peers that differ or fail, and smoke runs of it."""

import doctest
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import conductor, programs, ratios, table
from benchmarks.cases import CASES, GRID, TINY, Case, select, work
from benchmarks.conductor import Settings
from benchmarks.peers import PEERS, Entry, entries
from benchmarks.plot import draw
from benchmarks.problems import flat, make_problem
from benchmarks.processes import ROOT, Failed, Worker
from benchmarks.ratios import block_ratios, blocks, difference, geometric_mean, middle
from benchmarks.summary import findings, ratio_to_best

LSTM = CASES[0]
SMOKE = Settings(rounds=3, turn_s=0.0, smoke=True)


@pytest.mark.parametrize("count", range(6))
@pytest.mark.parametrize("ours", [["ours"], ["ours", "ours sharded"]])
def test_every_peer_has_one_turn_a_round_and_stands_beside_ours(count: int, ours: list[str]) -> None:
    others = [f"peer {k}" for k in range(count)]
    firsts = set()
    for number in range(4):
        found = blocks(ours, others, number)
        turns = [label for block in found for label in block]
        assert sorted(label for label in turns if label in others) == others
        for block in found:
            first = block.index(ours[0])
            assert block[first : first + len(ours)] == ours
            assert len(block) - len(ours) <= 2
            assert first <= 1
        firsts.add(turns[0])
    assert len(firsts) == min(max(count, 1), 4)


def test_a_ratio_is_our_time_over_theirs_within_a_block() -> None:
    times = {"torch": 4.0, "rnn_jax": 1.0, "rnn_jax sharded": 3.0, "linen": 0.5}
    assert block_ratios(times, ["rnn_jax", "rnn_jax sharded"]) == {
        "torch": {"rnn_jax": 0.25, "rnn_jax sharded": 0.75},
        "linen": {"rnn_jax": 2.0, "rnn_jax sharded": 6.0},
    }
    assert block_ratios({"torch": 4.0}, ["rnn_jax"]) == {"torch": {}}


def test_means_leave_out_what_is_missing() -> None:
    assert middle([3.0, 1.0, 2.0, 10.0]) == 2.5
    assert geometric_mean([0.5, None, 8.0]) == pytest.approx(2.0)
    assert middle([]) is None
    assert geometric_mean([None]) is None


def test_difference_is_relative_to_the_largest_entry_of_each_array() -> None:
    reference = {"ys": np.array([100.0, 1.0]), "params/b": np.array([1e-3, 0.0])}
    found = {"ys": np.array([100.0, 1.5]), "params/b": np.array([1e-3, 2e-4])}
    assert difference(reference, found) == (pytest.approx(0.2), "params/b")
    assert difference(reference, {**found, "ys": np.array([np.nan, 1.0])}) == (np.inf, "ys")
    assert difference(reference, {"params/b": found["params/b"]}) == (np.inf, "ys")
    assert difference(reference, {**found, "ys": np.array([[100.0, 1.0]])}) == (np.inf, "ys")
    assert difference({"b": np.zeros(2)}, {"b": np.array([0.0, 1e-3])}) == (1e-3, "b")


@pytest.mark.parametrize("module", [ratios, table, programs], ids=lambda module: module.__name__)
def test_examples(module: Any) -> None:
    tested = doctest.testmod(module)
    assert tested.attempted > 0
    assert tested.failed == 0


def test_names_of_cases_are_beginnings() -> None:
    assert [case.name for case in select(["lstm"], quick=False)] == ["-".join(["lstm", *map(str, s)]) for s in GRID]
    assert len({case.name for case in CASES}) == len(CASES)
    assert {case.family for case in select(None, quick=True)} == {case.family for case in CASES}
    assert {case.program for case in select(None, quick=True)} == {case.program for case in CASES}
    with pytest.raises(ValueError, match=r"`--only` must be the beginning of lstm-100-32-64-128, .*; got 'rwkv'"):
        select(["lstm", "rwkv"], quick=False)


def lstm_products(params: Any, xs: jax.Array) -> jax.Array:
    """The products of an LSTM, and element-wise work that does not matter."""
    size = params["w_h"].shape[0]

    def step(h: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        h = jnp.tanh(x @ params["w_x"] + h @ params["w_h"])[:, :size]
        return h, h

    return jax.lax.scan(step, jnp.zeros((xs.shape[1], size)), xs)[1].sum()


def test_work_of_a_gradient_is_that_of_its_traced_products() -> None:
    case = Case("small", "lstm", "gradient", {"T": 5, "B": 3, "I": 4, "H": 6})
    problem = make_problem(case)
    params = {name: jnp.asarray(problem.params[name]) for name in ("w_x", "w_h")}
    traced = jax.make_jaxpr(jax.grad(lstm_products, argnums=(0, 1)))(params, jnp.asarray(problem.inputs["xs"]))
    assert work(case) == (3 * 2 * 5 * 3 * 24 * 10, 0.0)
    assert programs.products_and_depth(traced.jaxpr) == (work(case)[0], 10)


def test_products_of_branches_count_once() -> None:
    a = jnp.ones((3, 3))
    program = jax.make_jaxpr(lambda flag: jax.lax.cond(flag, lambda: a @ a, lambda: a @ a @ a))(True)
    assert programs.products_and_depth(program.jaxpr) == (2 * 54.0, 0)


def test_a_problem_is_the_same_again_and_weighs_no_padding() -> None:
    (case,) = select(["bidirectional"], quick=True)
    problem, again = make_problem(case), make_problem(case)
    for name, value in flat(problem.params | problem.data).items():
        np.testing.assert_array_equal(value, flat(again.params | again.data)[name])
        assert value.dtype in (np.float32, np.int32)
    lengths, weights = problem.data["lengths"], problem.data["weights"]
    assert lengths.min() < lengths.max() == TINY["T"]
    for row, length in enumerate(lengths):
        assert (weights[:length, row] != 0).all()
        assert (weights[length:, row] == 0).all()


class Fake:
    """A worker that does no work: its results are off by `offset`, and it fails where it is told to."""

    def __init__(self, seconds: float, offset: float = 0.0, fails: str = "") -> None:
        self.facts = {"device": "none"}
        self.seconds, self.offset, self.fails, self.turns = seconds, offset, fails, 0

    def tell(self, do: str, case: dict[str, Any], path: str) -> None:
        np.savez(path, ys=np.array([1.0, 2.0 + self.offset]))

    def hear(self) -> dict[str, Any]:
        if self.fails == "build":
            raise Failed("ValueError: no such layer")
        return {"facts": {"second_call_s": self.seconds}}

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        if do == "rates":
            return {"gemm_flops": 1e9, "copy_bytes": 1e9}
        self.turns += 1
        if self.fails == "time" and self.turns > 1:
            raise Failed("is gone")
        return {"median_s": self.seconds, "p99_s": self.seconds, "repeats": 1, "compilations": 0}


class FakeWorkers:
    def __init__(self, fakes: dict[str, Fake]) -> None:
        self.fakes, self.cpus = {"lax.scan float64": Fake(1.0), **fakes}, [0]

    def busy_seconds(self) -> float:
        return 0.0

    def get(self, entry: Entry) -> Fake:
        return self.fakes[entry.label]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Measures the first case with fakes instead of peers."""

    def run(fakes: dict[str, Fake], settings: Settings = SMOKE) -> dict[str, Any]:
        labels = [label for label in fakes if "float64" not in label]
        monkeypatch.setattr(conductor, "entries", lambda case, cores: [Entry(label) for label in labels])
        monkeypatch.setattr(conductor, "is_there", lambda peer: True)
        return conductor.measure(LSTM, 1, FakeWorkers(fakes), settings, tmp_path)  # type: ignore[arg-type]

    return run


def test_what_differs_or_fails_is_told_and_the_rest_goes_on(measured: Any) -> None:
    fakes = {
        "rnn_jax": Fake(1.0, offset=1e-5),
        "torch": Fake(2.0, offset=1e-3),
        "lax.scan": Fake(4.0),
        "linen": Fake(1.0, fails="build"),
        "nnx": Fake(0.5, fails="time"),
    }
    rows = measured(fakes)["rows"]
    assert {label: row["status"] for label, row in rows.items()} == {
        "rnn_jax": "timed",
        "torch": "differs",
        "lax.scan": "timed",
        "linen": "failed",
        "nnx": "failed",
    }
    assert rows["torch"]["why"] == "ys is off by 5.0e-04"
    assert rows["linen"]["why"] == "ValueError: no such layer"
    assert rows["nnx"]["why"] == "is gone"
    assert fakes["torch"].turns == fakes["linen"].turns == 0
    assert rows["lax.scan"]["ratios"] == {"rnn_jax": [0.25, 0.25, 0.25]}
    assert rows["nnx"]["ratios"] == {"rnn_jax": [2.0]}
    assert rows["rnn_jax"]["seconds"] == 1.0


def test_without_us_nothing_is_claimed(measured: Any) -> None:
    rows = measured({"rnn_jax": Fake(1.0, offset=1.0), "torch": Fake(2.0)})["rows"]
    assert rows["rnn_jax"]["status"] == "differs"
    assert rows["torch"]["ratios"] == {}


def test_without_a_reference_nothing_is_timed(measured: Any) -> None:
    fakes = {"rnn_jax": Fake(1.0), "torch": Fake(1.0), "lax.scan float64": Fake(1.0, fails="build")}
    fakes["lax.scan float64"].tell = lambda do, case, path: None  # type: ignore[method-assign]
    rows = measured(fakes)["rows"]
    failed = {"status": "failed", "why": "no reference: ValueError: no such layer"}
    assert rows == {"rnn_jax": failed, "torch": failed}
    assert fakes["rnn_jax"].turns == 0


def test_a_limit_is_the_slower_of_products_and_bytes() -> None:
    rates = {"gemm_flops": 2e9, "copy_bytes": 1e9}
    assert conductor.limit(LSTM, rates) == pytest.approx(6 * 3200 * 512 * 192 / 2e9)
    (stream,) = select(["stream"], quick=False)
    assert conductor.limit(stream, rates) is None
    assert conductor.limit(stream, {"empty_s": 3e-6, "read_s": 2e-6}) == pytest.approx(5e-6)
    (forward,) = select(["diagonal-forward"], quick=False)
    assert conductor.limit(forward, rates) == pytest.approx(3 * 4 * 4096 * 8 * 128 / 1e9)


def measurement(name: str, cores: int, seconds: float, theirs: dict[str, list[float]]) -> dict[str, Any]:
    """One as the conductor makes it."""
    (case,) = [case for case in CASES if case.name == name]
    rows: dict[str, Any] = {"rnn_jax": {"status": "timed", "seconds": seconds, "ratios": {}, "p99": [seconds]}}
    for label, values in theirs.items():
        rows[label] = {"status": "timed", "seconds": seconds / float(np.median(values)), "ratios": {"rnn_jax": values}}
    rows["haiku"] = {"status": "not the same", "why": "resets before the product"}
    return {"case": case._asdict(), "cores": cores, "busy": 0.1, "limit_s": seconds / 2, "rows": rows}


@pytest.fixture
def run() -> dict[str, Any]:
    machine = {"date": "today", "cpu": "some", "cores": 2, "versions": {"jax": "1"}, "commit": "abc", "dirty": True}
    measurements = [
        measurement(
            "lstm-100-32-64-128", 1, 0.02, {"torch": [0.4, 0.5, 2.0], "linen": [0.9], "lax.scan sharded": [1.0]}
        ),
        measurement("gru-100-32-64-128", 1, 0.01, {"torch": [2.0], "linen": [0.25]}),
        measurement("diagonal-forward", 1, 0.004, {}),
        measurement("diagonal-gradient", 1, 0.01, {"lax.scan": [0.5]}),
        measurement("stream", 1, 3e-5, {"torch": [0.25]}),
    ]
    settings = {"rounds": 5, "quick": False}
    return {"machine": machine, "settings": settings, "peers": {}, "measurements": measurements}


def test_findings_take_the_best_peer_of_each_case(run: dict[str, Any]) -> None:
    assert ratio_to_best(run["measurements"][0], "rnn_jax") == 1.0
    found = {one.what: one for one in findings(run["measurements"])}
    best = found["LSTM and GRU, training step: rnn_jax / the fastest peer in JAX"]
    assert best.value == pytest.approx(np.sqrt(1.0 * 0.25))
    assert best.worst == (1.0, "lstm-100-32-64-128")
    assert best.count == 2
    assert found["LSTM and GRU, training step: rnn_jax / torch"].value == pytest.approx(np.sqrt(0.5 * 2.0))
    assert found["diagonal recurrence: gradient / own forward pass"].value == pytest.approx(2.5)
    assert found["diagonal recurrence: gradient / that of lax.scan"].value == 0.5
    assert found["stream: rnn_jax / limit"].value == pytest.approx(2.0)


def test_report_says_which_side_is_faster_and_what_was_left_out(run: dict[str, Any], tmp_path: Path) -> None:
    text = table.markdown(run)
    assert "below 1, rnn_jax is faster" in text
    row = "| lstm-100-32-64-128 | 10 ms | 20 ms | 2.00 | ~**0.50** (40 ms) |  | **0.90** (22.2 ms) |"
    assert row in text
    assert "| haiku | not the same | resets before the product |" in text
    assert "commit abc, with changes" in text
    assert draw(run, tmp_path / "ratios.png") == tmp_path / "ratios.png"
    assert draw({**run, "measurements": []}, tmp_path / "none.png") is None


def test_an_interrupted_run_keeps_what_it_had(
    run: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(cases: Any, cores: Any, settings: Any, note: Any, say: Any) -> None:
        note(run["measurements"][0])
        assert len(json.loads((tmp_path / "results.json").read_text())["measurements"]) == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "conduct", interrupted)
    command.main(["--quick", "--output", str(tmp_path)])
    assert "lstm-100-32-64-128" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "ratios.png").stat().st_size > 1000


@pytest.fixture
def worker() -> Iterator[Worker]:
    started = Worker(Entry("lax.scan"), conductor.available_cpus()[:1], 1, smoke=True)
    yield started
    started.end()


def test_a_worker_tells_its_error_and_lives_and_a_dead_one_is_noticed(worker: Worker) -> None:
    with pytest.raises(Failed, match=r"^TypeError: .*'nonsense'"):
        worker.ask("drop", nonsense=1)
    assert worker.ask("drop") == {}
    worker._process.kill()
    with pytest.raises(Failed):
        worker.ask("drop")
    assert not worker.is_alive


def smoke(tmp_path: Path, *arguments: str, path: str = "") -> tuple[dict[str, Any], str]:
    """A smoke run in a process of its own: its results, and what it printed."""
    python_path = {"PYTHONPATH": path} if path else {}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--output", str(tmp_path), *arguments],
        cwd=ROOT,
        env={**command.os.environ, **python_path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((tmp_path / "results.json").read_text()), done.stdout


def test_peers_that_are_there_are_equal_and_timed(tmp_path: Path) -> None:
    results, printed = smoke(tmp_path, "--only", "gru-before", "bidirectional", "stream")
    assert "measurements, about" in printed
    assert [one["case"]["name"] for one in results["measurements"]] == [
        "gru-before-100-32-64-128",
        "bidirectional",
        "stream",
    ]
    for one in results["measurements"]:
        case = Case(**one["case"])
        there = [entry.label for entry in entries(case, 1) if results["peers"][entry.peer]]
        assert {"rnn_jax", "lax.scan"} <= set(there)
        for label in there:
            row = one["rows"][label]
            assert row["status"] == "timed", (case.name, label, row)
            assert row["difference"] < ratios.TOLERANCE
            assert row["seconds"] > 0
            assert row["recompiled"] == 0
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "table.md", "ratios.png"}


def test_a_library_that_breaks_on_import_does_not_stop_the_others(tmp_path: Path) -> None:
    broken = tmp_path / "path"
    (broken / "torch").mkdir(parents=True)
    (broken / "torch" / "__init__.py").write_text('raise ImportError("libtorch.so is broken")\n')
    results, _ = smoke(tmp_path / "out", "--only", "lstm", "diagonal-gradient", "--rounds", "2", path=str(broken))
    lstm, diagonal = results["measurements"]
    assert lstm["rows"]["torch"] == {"status": "failed", "why": "ImportError: libtorch.so is broken"}
    assert lstm["rows"]["linen"]["status"] == "timed"
    assert len(lstm["rows"]["linen"]["ratios"]["rnn_jax"]) == 2
    assert set(diagonal["rows"]) == {"rnn_jax", "lax.scan", "associative"}
    assert "libtorch.so is broken" in (tmp_path / "out" / "table.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--only", "rwkv"], "`--only` must be the beginning of"),
        (["--rounds", "0"], "`--rounds` must be at least 1, got 0"),
        (["--cores", "3"], "invalid choice: 3"),
    ],
)
def test_bad_arguments(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(arguments)
    assert text in capsys.readouterr().err


def test_every_peer_of_a_jax_program_names_its_file() -> None:
    for known in PEERS.values():
        assert (ROOT / "benchmarks" / "peers" / f"{known.file}.py").is_file()
    for path in [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "benchmarks" / "peers").glob("*.py")]:
        assert len(path.read_text().splitlines()) <= 400
