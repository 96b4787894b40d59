"""`python -m experiments`: the list, check --all, check RUN_DIR, diff and report."""

import json

import pytest
from rich.console import Console
from toy_experiment import TOY, run_toy, toy

from experiments import catalogue
from experiments.__main__ import main
from experiments.catalogue import Experiment
from experiments.claims import at_least, at_most
from experiments.listing import measured, print_list, results_table

__all__ = ["toy"]


@pytest.fixture
def only_toy(toy, monkeypatch):
    """The toy is the only experiment."""
    monkeypatch.setattr(catalogue, "experiment_names", lambda: ["toy_sum"])
    return toy


def listed(capsys, width=100):
    print_list(Console(width=width))
    return capsys.readouterr().out


def test_check_all_needs_every_claim_to_have_a_result_that_holds(only_toy, capsys):
    assert main(["check", "--all"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "FAIL toy_sum: total <= 6.5 where rule = sum: no committed result",
        "FAIL toy_sum: total >= 100 where rule = boast: no committed result",
        "2 of 2 checks fail: toy_sum (2)",
    ]
    main(["save", str(run_toy(only_toy)[0])])
    assert main(["check", "--all"]) == 1
    main(["save", str(run_toy(only_toy, "--rule", "boast", "--terms", "99", "2")[0]), "--label", "boast"])
    capsys.readouterr()
    assert main(["check", "--all"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "ok   toy_sum: total <= 6.5 where rule = sum holds: 6 (Peano 1889)",
        "ok   toy_sum-boast: total >= 100 where rule = boast holds: 101 (nobody)",
        "all 2 checks hold",
    ]


def test_check_all_counts_and_names_what_fails(toy, capsys, monkeypatch):
    (toy / "modules" / "toy_product.py").write_text(TOY)
    monkeypatch.setattr(catalogue, "experiment_names", lambda: ["toy_product", "toy_sum"])
    main(["save", str(run_toy(toy)[0])])
    capsys.readouterr()
    assert main(["check", "--all"]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "3 of 4 checks fail: toy_product (2), toy_sum (1)"
    assert main(["check", "toy_sum", "toy_product"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "3 of 4 checks fail: toy_sum (1), toy_product (2)"


def test_check_all_names_results_that_belong_to_nothing_or_cannot_be_read(only_toy, capsys):
    catalogue.RESULTS_DIR.mkdir()
    (catalogue.RESULTS_DIR / "gone.json").write_text("{}")
    (catalogue.RESULTS_DIR / "toy_sum.json").write_text('{"experi')
    assert main(["check", "--all"]) == 1
    out = capsys.readouterr().out
    assert "FAIL gone: there is no experiment that this result belongs to" in out
    assert "FAIL toy_sum: results/toy_sum.json must be JSON, got: " in out
    (catalogue.RESULTS_DIR / "toy_sum.json").write_text('{"experiment": "scan"}')
    assert main(["check", "toy_sum"]) == 2
    assert "results/toy_sum.json must be a result of toy_sum, got one of 'scan'" in capsys.readouterr().err


def test_a_result_that_no_claim_is_about_is_named_and_does_not_fail(only_toy, capsys):
    for label, flags in {"": [], "boast": ["--rule", "boast", "--terms", "101"], "other": ["--rule", "other"]}.items():
        main(["save", str(run_toy(only_toy, *flags)[0]), "--label", label])
    capsys.readouterr()
    assert main(["check", "--all"]) == 0
    assert "ok   toy_sum-other: no claim is made about it\nall 3 checks hold\n" in capsys.readouterr().out
    assert "no claim about toy_sum-other" in listed(capsys)


def test_check_of_a_run_directory_uses_the_claims_about_its_configuration(toy, capsys):
    fine, boast = run_toy(toy)[0], run_toy(toy, "--rule", "boast")[0]
    other = run_toy(toy, "--rule", "other")[0]
    capsys.readouterr()
    assert main(["check", str(fine)]) == 0
    assert capsys.readouterr().out == "ok   toy_sum: total <= 6.5 where rule = sum holds: 6 (Peano 1889)\n"
    assert main(["check", str(boast)]) == 1
    assert "FAIL toy_sum: total >= 100 where rule = boast DOES NOT HOLD: 6" in capsys.readouterr().out
    assert main(["check", str(other)]) == 0
    assert capsys.readouterr().out == f"     {other}: no claim is made about it\n"
    assert main(["check", str(fine), str(boast)]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == f"1 of 2 checks fail: {boast} (1)"


def test_check_of_a_run_that_is_unfinished_small_or_nowhere_is_an_error(toy, capsys):
    (toy / "empty").mkdir()
    smoke = run_toy(toy, "--smoke")[0]
    for target, text in {
        str(toy / "empty"): "`run_dir` must hold a result.json",
        str(smoke): "`run_dir` must be a full run, got the smoke run",
        str(toy / "nowhere"): "`name` must be an experiment",
    }.items():
        assert main(["check", target]) == 2
        assert text in capsys.readouterr().err


@pytest.mark.parametrize("args", [["check"], ["check", "toy_sum", "--all"]])
def test_check_wants_names_or_all(toy, capsys, args):
    assert main(args) == 2
    assert "`check` must be given names, run directories or --all, and not both" in capsys.readouterr().err


def test_diff_prints_the_settings_that_differ(toy, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    a, b = run_toy(toy)[0], run_toy(toy, "--terms", "9", "--model.size", "5")[0]
    capsys.readouterr()
    assert main(["diff", str(a), str(b)]) == 0
    lines = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    assert cells == [["terms", "[1, 2, 3]", "[9]"], ["model.size", "4", "5"]]
    assert main(["diff", str(a), str(a)]) == 0
    assert capsys.readouterr().out == "the configurations are equal\n"
    assert main(["diff", str(a), str(toy)]) == 2
    assert "`run_dir` must hold config.json" in capsys.readouterr().err


def test_report_writes_one_page_where_the_runs_are(toy, capsys):
    a, b = run_toy(toy)[0], run_toy(toy, "--seed", "1")[0]
    capsys.readouterr()
    assert main(["report", str(a), str(b)]) == 0
    page = a.parent / "report.html"
    assert capsys.readouterr().out == f"wrote {page}\n"
    assert "2 runs · 1 configuration · 2 finished · 2 of 2 claim checks hold" in page.read_text()
    assert main(["report", str(a)]) == 0
    assert (a / "report.html").is_file()


def test_report_never_replaces_a_page_by_accident(toy, capsys):
    run_dir = run_toy(toy)[0]
    page = toy / "pages" / "a.html"
    assert main(["report", str(run_dir), "--output", str(page)]) == 0
    page.write_text("mine")
    assert main(["report", str(run_dir), "--output", str(page)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert page.read_text() == "mine"
    assert main(["report", str(run_dir), "--output", str(page), "--overwrite"]) == 0
    assert page.read_text().startswith("<!DOCTYPE html>")


def test_report_leaves_out_its_last_page_which_a_pattern_matches_too(toy):
    a, b = run_toy(toy)[0], run_toy(toy, "--seed", "1")[0]
    assert main(["report", str(a), str(b)]) == 0
    assert main(["report", *map(str, sorted(a.parent.iterdir())), "--overwrite"]) == 0


def test_the_list_shows_question_claim_and_committed_number(only_toy, capsys):
    assert "none yet" in listed(capsys)
    main(["save", str(run_toy(only_toy)[0])])
    capsys.readouterr()
    for width in (100, 160):
        lines = listed(capsys, width).splitlines()
        assert lines[0] == "toy_sum  Does adding work?"
        assert lines[1].split()[:9] == ["ok", "total", "<=", "6.5", "where", "rule", "=", "sum", "6"]
        assert lines[-1] == "1 experiment, 2 claims: 1 held, 1 not measured"
    assert main([]) == 0


def test_the_list_fits_the_width_and_hides_no_number(only_toy, capsys):
    for seed in range(3):
        run_dir = run_toy(only_toy, "--seed", str(seed), "--terms", "1", str(seed))[0]
        result = json.loads((run_dir / "result.json").read_text())
        # Three seeds of one configuration, with their own numbers.
        result["config"]["terms"] = [1]
        (run_dir / "result.json").write_text(json.dumps(result))
        main(["save", str(run_dir), "--label", f"seed{seed}"])
    main(["save", str(run_toy(only_toy, "--terms", "7")[0]), "--label", "large"])
    capsys.readouterr()
    for width in (60, 100, 160):
        out = listed(capsys, width)
        assert max(map(len, out.splitlines())) <= width
        assert "2.0 ± 1.0 (3 seeds)" in out
        assert "FAIL" in out
    assert "toy_sum-seed0 and 2 more" in listed(capsys, 160)


def test_one_of_three_seeds_that_misses_is_said():
    claim = at_most("nll", 8.7, source="s")
    results = {
        f"toy-{seed}": {"config": {"seed": seed}, "metrics": {"nll": nll}, "seconds": 1.0, "start_time": "2026-01-01"}
        for seed, nll in enumerate((8.5, 8.6, 8.8))
    }
    (item,) = measured(claim, results)
    assert item.holds == (True, True, False)
    assert item.text == "8.63 ± 0.15 (3 seeds)"
    (missing,) = measured(at_least("accuracy", 1, source="s"), {"toy-0": results["toy-0"]})
    assert (missing.text, missing.holds) == ("missing", (False,))


def test_the_table_unfolds_puts_seeds_together_and_keeps_its_columns(only_toy, monkeypatch):
    cpu, gpu = {"backend": "cpu", "cpu_count": 2}, {"backend": "gpu", "count": 4, "kind": "A"}
    claims = (
        at_most("nll", 8.7, source="ln |x|", when={"model.cell": "gru"}),
        at_most("data", 1, source="s", when={"model.cell": "lstm"}),
    )
    monkeypatch.setattr(catalogue, "load_experiment", lambda name: Experiment(name, "Why?", claims))
    catalogue.RESULTS_DIR.mkdir()
    for stem, cell, seed, metrics in (
        ("toy_sum-seed0", "gru", 0, {"nll": 8.5}),
        ("toy_sum-seed1", "gru", 1, {"nll": 8.8}),
        ("toy_sum", "lstm", 0, {"data": "published"}),
    ):
        result = {
            "experiment": "toy_sum",
            "config": {"model": {"cell": cell}, "seed": seed},
            "metrics": metrics,
            "seconds": 1.0 + seed,
            "start_time": "2026-11-24T10:00:00",
            "device": cpu if cell == "gru" else gpu,
        }
        (catalogue.RESULTS_DIR / f"{stem}.json").write_text(json.dumps(result))
    assert results_table().splitlines() == [
        "<details><summary><b>toy_sum</b>: Why? 0 of 2 hold.</summary>",
        "",
        "| claim | measured | source of the claim | training and all |",
        "|---|---|---|---|",
        "| nll <= 8.7 | **8.65 ± 0.21 (2 seeds)** | ln \\|x\\| | `toy_sum-seed0 and 1 more`, 1-2 s, 2 cores |",
        "| data <= 1 | **published** | s | `toy_sum`, 1 s, 4 x A |",
        "",
        "</details>",
    ]


def test_the_table_shows_what_is_missing_and_no_experiment_without_results(only_toy, monkeypatch):
    claims = (at_most("nll", 8.7, source="s"),)
    monkeypatch.setattr(catalogue, "load_experiment", lambda name: Experiment(name, "Why?", claims))
    assert results_table() == ""
    catalogue.RESULTS_DIR.mkdir()
    result = {
        "experiment": "toy_sum", "config": {"seed": 0}, "metrics": {}, "seconds": 200.0,
        "start_time": "2026-11-24T10:00:00", "device": {"backend": "cpu", "cpu_count": 1},
    }  # fmt: skip
    (catalogue.RESULTS_DIR / "toy_sum.json").write_text(json.dumps(result))
    assert "| nll <= 8.7 | **missing** | s | `toy_sum`, 3 min, 1 core |" in results_table().splitlines()
