import hashlib
from collections import Counter

import pytest

from rnn_jax.data import REGISTRY, DamagedFileError, Entry, enumerate_commands, fetch, interpret, scan_split

URL = "https://raw.githubusercontent.com/brendenlake/SCAN/master"
OFFICIAL = {
    path: Entry(f"scan/{path}", sha256, "BSD", f"{URL}/{path}")
    for path, sha256 in (
        ("simple_split/tasks_train_simple.txt", "941bb8a088c5f53ceff12fde902dc008933cf0c4203cc672c47b5f79d73262dd"),
        ("simple_split/tasks_test_simple.txt", REGISTRY["scan_simple_test"].sha256),
        ("length_split/tasks_train_length.txt", "b034212dc7cf87ce62f3a067dd6ad49c4d5cd18d51d615d13825516bcb1ebbc2"),
        ("length_split/tasks_test_length.txt", "0760752ed34a75116ae11dcc1ee17526b7500060da1366540730fa24894d7db3"),
        (
            "add_prim_split/tasks_train_addprim_jump.txt",
            "e3c78485692e028eed4205e1b8b3fd0e785ef2c12d45b5b89204dadf5b239e23",
        ),
        (
            "add_prim_split/tasks_test_addprim_jump.txt",
            "8147ae2651422c701162e174d9d66158daa57858a26b30317ac61797118ac7a5",
        ),
    )
}
SIZES = {"simple": (16_728, 4_182), "length": (16_990, 3_920), "jump": (14_670, 7_706), "random": (16_728, 4_182)}


def official(name, part):
    """The pairs of an official file, in its order."""
    path = next(path for path in OFFICIAL if path.endswith(f"_{part}_{name}.txt") or f"{part}_addprim_{name}" in path)
    try:
        lines = fetch(path, OFFICIAL).read_text().splitlines()
    except FileNotFoundError as error:
        pytest.skip(f"the SCAN file cannot be found: {error}")
    assert all(line.startswith("IN: ") for line in lines)
    return [tuple(tuple(side.split()) for side in line[4:].split(" OUT: ")) for line in lines]


def meaning(words):
    """The interpretation function of the paper's appendix, rule by rule, from the outside in."""
    if "and" in words:
        at = words.index("and")
        return meaning(words[:at]) + meaning(words[at + 1 :])
    if "after" in words:
        at = words.index("after")
        return meaning(words[at + 1 :]) + meaning(words[:at])
    if words[-1] == "twice":
        return meaning(words[:-1]) * 2
    if words[-1] == "thrice":
        return meaning(words[:-1]) * 3
    verb = [] if words[0] == "turn" else [f"I_{words[0].upper()}"]
    if len(words) == 1:
        return verb
    turn = [f"I_TURN_{words[-1].upper()}"]
    if len(words) == 2:
        return turn + verb
    return {"opposite": turn + turn + verb, "around": (turn + verb) * 4}[words[1]]


def test_the_grammar_has_20910_commands_of_1_to_9_words_and_1_to_48_actions():
    commands = enumerate_commands()
    assert len(commands) == len(set(commands)) == 20_910
    assert {len(command.split()) for command in commands} == set(range(1, 10))
    lengths = [len(interpret(command)) for command in commands]
    assert (min(lengths), max(lengths)) == (1, 48)


def test_every_command_means_what_the_rules_of_the_paper_say():
    for command in enumerate_commands():
        assert list(interpret(command)) == meaning(command.split()), command


@pytest.mark.parametrize(
    ("command", "actions"),
    [
        ("jump", "JUMP"),
        ("jump left", "TURN_LEFT JUMP"),
        ("jump around right", "TURN_RIGHT JUMP TURN_RIGHT JUMP TURN_RIGHT JUMP TURN_RIGHT JUMP"),
        ("turn left twice", "TURN_LEFT TURN_LEFT"),
        ("jump thrice", "JUMP JUMP JUMP"),
        ("jump opposite left and walk thrice", "TURN_LEFT TURN_LEFT JUMP WALK WALK WALK"),
        (
            "jump opposite left after walk around left",
            "TURN_LEFT WALK TURN_LEFT WALK TURN_LEFT WALK TURN_LEFT WALK TURN_LEFT TURN_LEFT JUMP",
        ),
    ],
)
def test_the_examples_of_the_paper(command, actions):
    assert interpret(command) == tuple(f"I_{action}" for action in actions.split())


@pytest.mark.parametrize(
    "command",
    [
        *("", "turn", "jump jump", "jump twice thrice", "twice", "walk and", "and walk", "walk and run and look"),
        *("walk after run and look", "walk  left", "walk left opposite", "turn twice", "hop"),
    ],
)
def test_what_the_grammar_does_not_have_is_refused(command):
    with pytest.raises(ValueError, match=rf"`command` must be a command of the SCAN grammar, got '{command}'"):
        interpret(command)


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("name", ["simple", "length", "jump"])
def test_a_split_holds_exactly_the_lines_of_the_official_file(name, part):
    lines = official(name, part)
    assert Counter(getattr(scan_split(name), part)) == Counter(lines)
    assert len(lines) == SIZES[name][part == "test"]


@pytest.mark.parametrize("name", ["length", "jump", "random"])
def test_sizes_are_the_published_ones_and_no_test_command_is_in_training(name):
    split = scan_split(name)
    assert (len(split.train), len(split.valid), len(split.test)) == (SIZES[name][0], 0, SIZES[name][1])
    train, test = ({" ".join(words) for words, _ in part} for part in (split.train, split.test))
    assert train | test == set(enumerate_commands())
    assert not train & test
    assert all(actions == interpret(" ".join(words)) for words, actions in split.train + split.test)


def test_a_tenth_of_the_jump_training_commands_is_jump_alone():
    train = scan_split("jump").train
    with_jump = [words for words, _ in train if "jump" in words]
    assert set(with_jump) == {("jump",)}
    assert len(with_jump) * 10 == len(train)


def test_the_random_split_is_always_the_same():
    digest = hashlib.sha256(repr(scan_split("random").test).encode()).hexdigest()
    assert digest == "2b14a32622844b28626a98d7916cdc8a50e17bb033f86c6e346c9c93922cc2fc"


def test_a_damaged_file_of_the_simple_split_is_named(tmp_path, monkeypatch):
    path = tmp_path / REGISTRY["scan_simple_test"].path
    path.parent.mkdir(parents=True)
    path.write_text("IN: walk OUT: I_WALK\n")
    monkeypatch.setenv("RNN_JAX_DATA", str(tmp_path))
    with pytest.raises(DamagedFileError, match=r"tasks_test_simple\.txt is damaged"):
        scan_split("simple")


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"`name` must be one of simple, length, jump, random, got 'turn'"):
        scan_split("turn")
