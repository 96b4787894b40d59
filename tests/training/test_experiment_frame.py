"""The frame of an experiment: its command line, its claims, and the list of all of them."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest
from toy_experiment import REPOSITORY, TOY, run_toy, toy

from experiments import bach_chorales, catalogue
from experiments.__main__ import main as list_main
from experiments.claims import applies, at_least, at_most, check_claim, claim_text, within
from experiments.cli import main

__all__ = ["toy"]


def test_an_experiment_runs_from_its_own_command_line(tmp_path):
    (tmp_path / "toy_sum.py").write_text(TOY)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "toy_sum.py", "--smoke", "--model.size", "7", "--terms", "4", "5"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    (run_dir,) = (tmp_path / "runs" / "toy_sum").iterdir()
    result = json.loads((run_dir / "result.json").read_text())
    assert result["metrics"] == {"total": 9.0, "size": 7}
    assert result["smoke"] is True
    assert result["claims"] == []
    for text in ("toy_sum (smoke run)", "total", "9", str(run_dir.relative_to(tmp_path))):
        assert text in done.stdout


def test_the_default_run_uses_the_defaults_and_checks_its_claim(toy):
    run_dir, result = run_toy(toy)
    assert result["metrics"] == {"total": 6.0, "size": 4}
    assert [claim["holds"] for claim in result["claims"]] == [True]
    assert result["claims"][0]["text"] == "total <= 6.5 where rule = sum holds: 6 (Peano 1889)"
    assert result["config"] == json.loads((run_dir / "config.json").read_text())
    assert result["seeds"] == [0]
    assert result["seconds"] >= 0
    assert {"device", "commit", "dirty", "versions", "start_time"} <= set(result)


def test_smoke_starts_from_tiny_sizes(toy):
    _, result = run_toy(toy, "--smoke", "--seed", "3")
    assert result["metrics"] == {"total": 1.0, "size": 1}
    assert result["seeds"] == [3]


def test_a_preset_is_where_a_new_run_starts_from(toy):
    run_dir, result = run_toy(toy, "--preset", "paper", "--seed", "3")
    assert result["metrics"] == {"total": 15.0, "size": 1000}
    assert result["seeds"] == [3]
    with pytest.raises(SystemExit, match=r"--preset must be one of \['paper'\], got 'papr'"):
        run_toy(toy, "--preset", "papr")
    for flags in (("--smoke",), ("--resume", str(run_dir))):
        with pytest.raises(SystemExit, match="cannot be had with --smoke or --resume"):
            run_toy(toy, "--preset", "paper", *flags)


def test_only_claims_about_this_configuration_are_checked(toy, capsys):
    _, result = run_toy(toy, "--rule", "boast")
    assert [claim["holds"] for claim in result["claims"]] == [False]
    assert "total >= 100 where rule = boast DOES NOT HOLD: 6 (nobody)" in capsys.readouterr().out


def test_an_unknown_flag_ends_with_an_error(toy, capsys):
    with pytest.raises(SystemExit):
        run_toy(toy, "--sede", "3")
    assert "--sede" in capsys.readouterr().err


def test_a_misspelt_flag_is_answered_with_the_right_one(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(bach_chorales.Config, bach_chorales.run, smoke=bach_chorales.SMOKE, args=["--hiden-size", "3"])
    assert stopped.value.code == 2
    err = capsys.readouterr().err
    assert err.index("--hiden-size") < err.index("Perhaps you meant") < err.index("--hidden-size")


def test_a_configuration_that_cannot_be_run_bare_is_refused():
    Bare = dataclasses.make_dataclass("Bare", [("seed", int), ("size", int, 3)])
    NoSeed = dataclasses.make_dataclass("NoSeed", [("size", int, 3)])
    Fine = dataclasses.make_dataclass("Fine", [("seed", int, 3)])
    with pytest.raises(ValueError, match=r"must have a default for every field.*\['seed'\]"):
        main(Bare, dict, smoke=None, args=[])
    with pytest.raises(ValueError, match="`config_type` must have a field `seed`"):
        main(NoSeed, dict, smoke=NoSeed(), args=[])
    with pytest.raises(ValueError, match="`smoke` must be a Fine, got NoSeed"):
        main(Fine, dict, smoke=NoSeed(), args=[])
    with pytest.raises(ValueError, match=r"`presets\['paper'\]` must be a Fine, got 3"):
        main(Fine, dict, smoke=Fine(), presets={"paper": 3}, args=[])
    with pytest.raises(ValueError, match="`config_type` must be a dataclass"):
        main(int, dict, smoke=0, args=[])


def test_discovery_finds_experiments_and_skips_the_frame_and_private_modules(toy):
    names = catalogue.experiment_names()
    assert "toy_sum" in names
    assert not {"cli", "claims", "catalogue", "__main__", "_private"} & set(names)


def test_check_needs_a_result_for_every_claim_and_compares_it(toy, capsys):
    assert list_main(["check", "toy_sum"]) == 1
    assert "FAIL toy_sum: total <= 6.5 where rule = sum: no committed result" in capsys.readouterr().out
    list_main(["save", str(run_toy(toy)[0])])
    run_dir, _ = run_toy(toy, "--rule", "boast", "--terms", "99", "2")
    list_main(["save", str(run_dir), "--label", "boast"])
    capsys.readouterr()
    assert list_main(["check", "toy_sum"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "ok   toy_sum: total <= 6.5 where rule = sum holds: 6 (Peano 1889)",
        "ok   toy_sum-boast: total >= 100 where rule = boast holds: 101 (nobody)",
    ]
    list_main(["save", str(run_toy(toy, "--terms", "7")[0]), "--overwrite"])
    capsys.readouterr()
    assert list_main(["check", "toy_sum"]) == 1
    assert "FAIL toy_sum: total <= 6.5 where rule = sum DOES NOT HOLD: 7" in capsys.readouterr().out


def test_a_committed_result_is_never_replaced_by_accident(toy, capsys):
    first, second = run_toy(toy)[0], run_toy(toy, "--seed", "1")[0]
    assert list_main(["save", str(first)]) == 0
    assert list_main(["save", str(second)]) == 2
    assert "toy_sum.json exists; pass --overwrite" in capsys.readouterr().err
    saved = catalogue.RESULTS_DIR / "toy_sum.json"
    assert saved.read_bytes() == (first / "result.json").read_bytes()
    assert list_main(["save", str(second), "--overwrite"]) == 0
    assert saved.read_bytes() == (second / "result.json").read_bytes()


def test_smoke_runs_and_odd_labels_are_not_saved(toy, capsys):
    assert list_main(["save", str(run_toy(toy, "--smoke")[0])]) == 2
    assert "must be a full run, got the smoke run" in capsys.readouterr().err
    assert list_main(["save", str(run_toy(toy)[0]), "--label", "../up"]) == 2
    assert "`label` must be made of letters" in capsys.readouterr().err
    assert list_main(["save", str(toy)]) == 2
    assert "must hold a result.json" in capsys.readouterr().err


def test_an_unknown_experiment_is_answered_with_close_names(toy, capsys):
    assert list_main(["check", "toy_sun"]) == 2
    assert "got 'toy_sun'; did you mean toy_sum?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("claim", "value", "holds"),
    [
        (at_most("x", 8.7, source="s"), 8.7, True),
        (at_most("x", 8.7, source="s"), 8.701, False),
        (at_least("x", 0.5, source="s"), 1, True),
        (at_least("x", 0.5, source="s"), 0.4, False),
        (within("x", 2.0, 0.25, source="s"), 1.75, True),
        (within("x", 2.0, 0.25, source="s"), 2.5, False),
        (at_most("x", 8.7, source="s"), float("nan"), False),
        (at_least("x", 0.0, source="s"), True, False),
        (at_least("x", 0.0, source="s"), "high", False),
    ],
)
def test_a_claim_holds_inside_its_bounds_only(claim, value, holds):
    check = check_claim(claim, {"x": value})
    assert check.holds is holds
    assert claim_text(claim) in check.text


def test_a_missing_metric_does_not_hold_and_says_what_there_is():
    check = check_claim(at_most("nll", 8.7, source="s"), {"loss": 1.0, "acc": 0.5})
    assert check == (False, "nll <= 8.7 cannot be checked: the result has acc, loss")


def test_a_condition_on_an_unknown_field_is_an_error():
    claim = at_most("nll", 8.7, source="s", when={"model.cell": "gru"})
    assert applies(claim, {"model": {"cell": "gru"}})
    with pytest.raises(ValueError, match=r"must name fields of the configuration.*'model.cell'"):
        applies(claim, {"model": {"size": 3}})


def test_a_negative_tolerance_is_refused():
    with pytest.raises(ValueError, match="`tolerance` must be at least 0, got -1"):
        within("x", 1.0, -1, source="s")
