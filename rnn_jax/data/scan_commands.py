"""SCAN: navigation commands and the actions they mean, made from their grammar.

    C -> S and S | S after S | S
    S -> V twice | V thrice | V
    V -> D | D[1] opposite D[2] | D[1] around D[2] | U        D -> U left | U right | turn left | turn right
    U -> walk | look | run | jump

`[[.]]` is the meaning of a phrase, a sequence of actions, and juxtaposition joins sequences:

    [[u]] = I_U    [[turn d]] = I_TURN_D    [[u d]] = I_TURN_D I_U    [[u opposite d]] = I_TURN_D I_TURN_D I_U
    [[u around d]] = [[u d]] four times    [[v twice]] = [[v]] [[v]]    [[v thrice]] = [[v]] [[v]] [[v]]
    [[a and b]] = [[a]] [[b]]    [[a after b]] = [[b]] [[a]]

where `turn` itself acts as a u that means nothing.
"""

import functools
from collections.abc import Iterable
from typing import Literal, get_args

from rnn_jax.data.batching import epoch_order
from rnn_jax.data.fetch import fetch
from rnn_jax.data.splits import Splits

__all__ = ["ScanPair", "ScanSplit", "enumerate_commands", "interpret", "scan_split"]

ScanPair = tuple[tuple[str, ...], tuple[str, ...]]
"""The words of a command and the actions it means."""

ScanSplit = Literal["simple", "length", "jump", "random"]

LONGEST_TRAINING_ACTIONS = 22
JUMP_COPIES = 1_467  # "jump" is a tenth of the 14,670 training commands
TEST_COMMANDS = 4_182  # a fifth of all


@functools.cache
def _phrases() -> dict[str, tuple[str, ...]]:
    """All 102 phrases without a conjunction (S in the grammar) with their actions."""
    acts: dict[str, tuple[str, ...]] = {
        "walk": ("I_WALK",),
        "look": ("I_LOOK",),
        "run": ("I_RUN",),
        "jump": ("I_JUMP",),
    }
    verbs = dict(acts)
    for direction in ("left", "right"):
        turn = (f"I_TURN_{direction.upper()}",)
        for word, act in {**acts, "turn": ()}.items():
            verbs[f"{word} {direction}"] = turn + act
            verbs[f"{word} opposite {direction}"] = turn + turn + act
            verbs[f"{word} around {direction}"] = (turn + act) * 4
    times = {"": 1, " twice": 2, " thrice": 3}
    return {verb + word: actions * count for verb, actions in verbs.items() for word, count in times.items()}


def enumerate_commands() -> tuple[str, ...]:
    """Every command of the grammar, once: 102 phrases and 2 x 102 x 102 pairs of phrases.

    Returns:
        20,910 commands, words separated by one space.

    Example:
        >>> commands = enumerate_commands()
        >>> len(commands), commands[0], commands[-1]
        (20910, 'walk', 'turn around right thrice after turn around right thrice')
    """
    phrases = tuple(_phrases())
    return phrases + tuple(f"{a} {word} {b}" for word in ("and", "after") for a in phrases for b in phrases)


def interpret(command: str) -> tuple[str, ...]:
    """The actions that a command means, under their official names.

    Args:
        command: words separated by one space.

    Returns:
        1 to 48 of I_WALK, I_LOOK, I_RUN, I_JUMP, I_TURN_LEFT and I_TURN_RIGHT.

    Raises:
        ValueError: if the grammar has no such command.

    Example:
        >>> interpret("jump twice after turn left")
        ('I_TURN_LEFT', 'I_JUMP', 'I_JUMP')
    """
    phrases = _phrases()
    parts = command.split(" and ")
    if len(parts) == 1:
        parts = command.split(" after ")[::-1]
    if len(parts) > 2 or not phrases.keys() >= set(parts):
        raise ValueError(f"`command` must be a command of the SCAN grammar, got {command!r}")
    return tuple(action for part in parts for action in phrases[part])


def scan_split(name: ScanSplit) -> Splits[ScanPair]:
    """Commands and their actions, split as in the published experiments.

    `length` and `jump` follow from their rules alone and hold exactly the lines of the official files;
    `simple` is random, so the official test commands come through `fetch` and all others are for
    training. The order is that of `enumerate_commands`, not that of the files: shuffle before training.

    Args:
        name: "simple" (16,728 / 4,182, the official random split), "length" (16,990 / 3,920: at most 22
            actions in training, 24 to 48 in test), "jump" (14,670 / 7,706: training has the command
            "jump" 1,467 times and no other with that word, test has all the others), or "random"
            (a split of the kind and sizes of `simple`, but not the official one; it needs no file).

    Returns:
        `Splits(train, valid, test)` of `(words, actions)`; valid is empty, there is none.

    Raises:
        ValueError: if the name is none of the four.
        FileNotFoundError: for "simple", if the file is nowhere to be found.
        DamagedFileError: for "simple", if it was found but is not the published one.

    Example:
        >>> split = scan_split("jump")
        >>> len(split.train), len(split.test), split.test[0]
        (14670, 7706, (('jump', 'twice'), ('I_JUMP', 'I_JUMP')))

    References:
        Lake and Baroni, "Generalization without Systematicity", ICML 2018.
    """
    commands = enumerate_commands()
    match name:
        case "simple":
            lines = fetch("scan_simple_test").read_text(encoding="ascii").splitlines()
            test = {line.removeprefix("IN: ").partition(" OUT: ")[0] for line in lines}
        case "length":
            test = {command for command in commands if len(interpret(command)) > LONGEST_TRAINING_ACTIONS}
        case "jump":
            test = {command for command in commands if "jump" in command} - {"jump"}
        case "random":
            test = {commands[i] for i in epoch_order(seed=0, epoch=0, n=len(commands))[:TEST_COMMANDS]}
        case _:
            raise ValueError(f"`name` must be one of {', '.join(get_args(ScanSplit))}, got {name!r}")
    train = [command for command in commands if command not in test]
    if name == "jump":
        train += ["jump"] * (JUMP_COPIES - 1)
    return Splits(_pairs(train), (), _pairs(command for command in commands if command in test))


def _pairs(commands: Iterable[str]) -> tuple[ScanPair, ...]:
    return tuple((tuple(command.split(" ")), interpret(command)) for command in commands)
