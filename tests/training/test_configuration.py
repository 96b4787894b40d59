"""Configurations come back from their files as they were, or say what is wrong with the file."""

import dataclasses
import importlib
import json
import math
from pathlib import Path
from typing import Any, Literal

import pytest

from experiments.catalogue import experiment_names
from experiments.configuration import diff_configs, load_config
from rnn_jax.report import ABSENT
from rnn_jax.training import start_run, to_plain


@dataclasses.dataclass(frozen=True)
class Layer:
    size: int = 8
    kind: Literal["gru", "lstm"] = "gru"


@dataclasses.dataclass(frozen=True)
class Stack:
    bottom: Layer = Layer()
    top: Layer | None = None
    more: tuple[Layer, ...] = ()


@dataclasses.dataclass(frozen=True)
class Config:
    stack: Stack = Stack()
    rates: tuple[float, ...] = (0.1, 0.2)
    span: tuple[int, str] = (1, "a")
    limit: int | None = None
    either: int | str = 3
    where: Path | None = None
    names: list[str] = dataclasses.field(default_factory=list)
    weights: dict[str, float] = dataclasses.field(default_factory=dict)
    choice: Literal[1, 2, "all"] = 1
    large: float = 1.0
    on: bool = False
    anything: Any = None
    seed: int = 0


OTHER = Config(
    stack=Stack(bottom=Layer(3, "lstm"), top=Layer(4), more=(Layer(5), Layer(6, "lstm"))),
    rates=(),
    span=(7, "b"),
    limit=9,
    either="three",
    where=Path("data/x"),
    names=["a", "b"],
    weights={"a": 0.5},
    choice="all",
    large=math.inf,
    on=True,
    anything=[1, {"a": None}],
    seed=4,
)


def write(tmp_path, value):
    path = tmp_path / "config.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


@pytest.mark.parametrize("config", [Config(), OTHER], ids=["defaults", "other"])
def test_every_type_of_field_comes_back(tmp_path, config):
    run_dir = start_run("toy", config, root=tmp_path)
    for path in (run_dir, run_dir / "config.json", str(run_dir)):
        again = load_config(Config, path)
        assert again == config
        assert repr(again) == repr(config)  # equality would not tell 1 from 1.0, or a list from a list of others


@pytest.mark.parametrize("name", experiment_names())
def test_the_configurations_of_every_experiment_come_back(tmp_path, name):
    module = importlib.import_module(f"experiments.{name}")
    for config in (module.Config(), module.SMOKE):
        again = load_config(module.Config, start_run(name, config, root=tmp_path))
        assert again == config
        assert repr(again) == repr(config)
        assert hash(again) == hash(config)


def changed(**changes):
    return to_plain(Config()) | changes


def test_unknown_and_missing_fields_are_named_with_what_was_meant(tmp_path):
    plain = changed(larg=3.0)
    del plain["large"], plain["seed"]
    text = r"exactly the fields of Config, got unknown larg \(did you mean large\?\), missing large, missing seed$"
    with pytest.raises(ValueError, match=text):
        load_config(Config, write(tmp_path, plain))
    stack = to_plain(Stack()) | {"bottom": {"sise": 3, "kind": "gru"}}
    text = r"exactly the fields of Layer, got unknown stack\.bottom\.sise \(did you mean size\?\), missing"
    with pytest.raises(ValueError, match=text):
        load_config(Config, write(tmp_path, changed(stack=stack)))
    with pytest.raises(ValueError, match=r"got unknown qqq$"):
        load_config(Config, write(tmp_path, changed(qqq=1)))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"seed": "0"}, "`seed` must be int, got '0'"),
        ({"seed": 1.5}, "`seed` must be int, got 1.5"),
        ({"seed": True}, "`seed` must be int, got True"),
        ({"seed": None}, "`seed` must be int, got None"),
        ({"large": "big"}, "`large` must be float, got 'big'"),
        ({"on": 1}, "`on` must be bool, got 1"),
        ({"limit": "none"}, "`limit` must be int, got 'none'"),
        ({"where": 3}, "`where` must be Path, got 3"),
        ({"either": [1]}, r"`either` must be int or str, got \[1\]"),
        ({"rates": 0.1}, "`rates` must be a list, got 0.1"),
        ({"rates": [0.1, "x"]}, r"`rates\[1\]` must be float, got 'x'"),
        ({"span": [1, "a", 2]}, r"`span` must be a list of 2, got \[1, 'a', 2\]"),
        ({"span": ["a", 1]}, r"`span\[0\]` must be int, got 'a'"),
        ({"names": "ab"}, "`names` must be a list, got 'ab'"),
        ({"weights": {"a": "x"}}, "`weights.a` must be float, got 'x'"),
        ({"weights": [1]}, r"`weights` must be an object, got \[1\]"),
        ({"choice": True}, "`choice` must be one of 1, 2, 'all', got True"),
        ({"choice": "al"}, r"`choice` must be one of 1, 2, 'all', got 'al' \(did you mean all\?\)"),
        ({"stack": 3}, "`stack` must be an object with the fields of Stack, got 3"),
        (
            {"stack": {"bottom": {"size": "x", "kind": "gru"}, "top": None, "more": []}},
            "`stack.bottom.size` must be int, got 'x'",
        ),
        (
            {"stack": {"bottom": {"size": 1, "kind": "gru"}, "top": None, "more": [{"size": 1, "kind": "grru"}]}},
            r"`stack.more\[0\].kind` must be one of 'gru', 'lstm', got 'grru' \(did you mean gru\?\)",
        ),
    ],
)
def test_a_wrong_type_is_refused_by_the_dotted_name(tmp_path, changes, text):
    with pytest.raises(ValueError, match=text):
        load_config(Config, write(tmp_path, changed(**changes)))


def test_a_whole_number_may_stand_for_a_float(tmp_path):
    again = load_config(Config, write(tmp_path, changed(large=3, rates=[1])))
    assert repr((again.large, again.rates)) == "(3.0, (1.0,))"


def test_what_is_no_configuration_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`path` must be a run directory with a config.json or a JSON file"):
        load_config(Config, tmp_path)
    with pytest.raises(ValueError, match=r"`path` must be a run directory with a config.json or a JSON file"):
        load_config(Config, tmp_path / "none.json")
    with pytest.raises(ValueError, match=r"`path` must hold JSON, got .*config.json"):
        load_config(Config, write(tmp_path, '{"seed": '))
    with pytest.raises(ValueError, match=r"`path` must hold an object with the fields of Config, got \[\]"):
        load_config(Config, write(tmp_path, "[]"))
    with pytest.raises(ValueError, match="`config_type` must be a dataclass, got <class 'int'>"):
        load_config(int, write(tmp_path, "3"))


def test_a_field_that_json_cannot_hold_is_named(tmp_path):
    Odd = dataclasses.make_dataclass("Odd", [("keys", set[int], frozenset())])
    with pytest.raises(ValueError, match=r"`keys` has a type that cannot be read from JSON: set\[int\]"):
        load_config(Odd, write(tmp_path, {"keys": []}))


def test_differences_have_dotted_names_and_both_values():
    assert diff_configs(Config(), Config()) == {}
    a = Config(rates=(0.1,), seed=1)
    b = Config(stack=Stack(bottom=Layer(size=9), top=Layer()), rates=(0.1, 0.3))
    assert diff_configs(a, b) == {
        "stack.bottom.size": (8, 9),
        "stack.top": (None, {"size": 8, "kind": "gru"}),
        "rates": ([0.1], [0.1, 0.3]),
        "seed": (1, 0),
    }


def test_differences_of_plain_data_and_of_fields_that_one_lacks():
    assert diff_configs({"a": math.nan, "b": 1}, {"a": math.nan, "b": 1.0}) == {}
    assert diff_configs({"a": 1}, {"a": True}) == {"a": (1, True)}
    assert diff_configs({"a": {"b": 1}}, {"c": 2}) == {"a": ({"b": 1}, ABSENT), "c": (ABSENT, 2)}
    assert diff_configs(Layer(), {"size": 8, "kind": "gru"}) == {}


def test_only_fields_are_compared():
    with pytest.raises(ValueError, match="`b` must be a dataclass instance or a mapping, got 3"):
        diff_configs(Layer(), 3)
