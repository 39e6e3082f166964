"""Compares tokenizers of several ladders and downsampling factors, each trained for the same time.

A row is one tokenizer and, if wanted, a short generator on its tokens, in a folder of its own. What is there
is taken, so a study that was stopped goes on by the same call.

Steps that end when a clock says so cannot be repeated, and no learning rate could be planned for them. So
minutes are turned into a number of steps before a training begins, by timing some of it; the number is kept,
and the training is one like any other.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

import torch
from accelerate import Accelerator
from pydantic import TypeAdapter

from var_pe.comparison.costs import costs, minutes_of_training, trainable
from var_pe.evaluation.records import Record, versions
from var_pe.evaluation.shapes_reader import ShapeReader
from var_pe.files import KeptResults, write_json, write_text
from var_pe.models.tokenizer import VQTokenizer
from var_pe.pages.numbers import plain
from var_pe.pages.tables import aligned_table, markdown_table
from var_pe.progress import duration, number_of
from var_pe.pyramid import Pyramid
from var_pe.stages.config import Config
from var_pe.stages.features import feature_extractor, trained_against
from var_pe.stages.images import fingerprint
from var_pe.stages.models import build_tokenizer, weights_hash
from var_pe.stages.score import score_tokenizer
from var_pe.stages.timing import seconds_of_a_step
from var_pe.stages.train import train_generator, train_tokenizer
from var_pe.tasks.codebook import bits
from var_pe.tasks.generator import GeneratorTraining
from var_pe.tasks.tokenizer import TokenizerTraining
from var_pe.training.log import read_log
from var_pe.training.notes import TrainingNotes

FILE = "ladders.json"  # of a study, in its folder
LEAST, MOST = 14, 260  # tokens of the rows that are taken by themselves
TIMED_STEPS = 20
STEPS = "steps.json"  # in a training's folder: how many its minutes were

T = TypeVar("T", TokenizerTraining, GeneratorTraining)
Trained = Literal["tokenizer", "generator"]
Json = dict[str, object]


@dataclass(frozen=True)
class Ladder:
    """Square levels from coarse to fine, and pixels of a side that are one cell of the finest."""

    levels: tuple[int, ...]
    downsampling: int

    @property
    def tokens(self) -> int:
        return sum(side * side for side in self.levels)

    def __str__(self) -> str:
        return f"{'-'.join(map(str, self.levels))}_by_{self.downsampling}"


@dataclass(frozen=True)
class Minutes:
    """How long a row's models are trained; a generator of 0 minutes is not trained at all."""

    tokenizer: float
    generator: float


@dataclass(frozen=True)
class Row:
    """The scores of one tokenizer on the test split after its training time."""

    ladder: str
    # what looked at its reconstructions
    judge: str
    tokens: int
    codes: int
    parameters: int
    steps: int
    # seen in training, all passes together
    images: int
    # that the steps took, validation and saving aside
    minutes: float
    # in an image's tokens, at the frequencies that codes have in each level
    bits: float
    # dB
    psnr: float
    # Frechet distances: of reconstructions of one half of the test images from the other, of real ones
    distance: float
    floor: float
    # test images on either side of a distance
    compared: int
    # share of all codes that occur, of each level
    usage: list[float]
    # degrees, and the share that is left; None for grey pictures
    hue_error: float | None
    chroma_kept: float | None
    # of a generator on these tokens; None without one
    generator_steps: int | None
    nats: float | None


ROW = TypeAdapter(Row)  # reads it from a file

# -------------------------------------------------------------------------------------------- which rows


def parse_ladder(word: str) -> Ladder:
    """A ladder as it is written, `1-2-3-4_by_8`.

    Raises:
        ValueError: it is not written so.
    """
    if not re.fullmatch(r"\d+(-\d+)*_by_\d+", word):
        raise ValueError(f"a row is LEVELS_by_FACTOR, such as 1-2-3-4_by_8, got {word}")
    levels, _, factor = word.partition("_by_")
    return Ladder(tuple(map(int, levels.split("-"))), int(factor))


def ladders_for(config: Config) -> list[Ladder]:
    """The rows that are taken by themselves, by number of tokens: the config's own and others beside it.

    For each factor of 2, 4, 8 and 16, with the finest side n: 1 and n alone; n halved down to 1; n with its
    area halved down to 1; all sides from 1 to n. Those of 14 to 260 tokens are taken, for 32x32 pixels eight.
    """
    own = Pyramid.of(config.tokenizer.levels)
    side = config.data.height
    found = {Ladder(tuple(height for height, _ in own.grids), config.tokenizer.downsampling)}
    for factor in (2, 4, 8, 16):
        if side % factor == 0:
            n = side // factor
            levels = {(1, n), shrunk(n, 2), shrunk(n, math.sqrt(2)), tuple(range(1, n + 1))}
            found |= {Ladder(each, factor) for each in levels}
    chosen = [ladder for ladder in found if LEAST <= ladder.tokens <= MOST]
    return sorted(chosen, key=lambda ladder: (ladder.tokens, str(ladder)))


def shrunk(side: int, ratio: float) -> tuple[int, ...]:
    """Sides from 1 to `side`, each the next one over the ratio, rounded."""
    sides = [side]
    while sides[0] > 1:
        sides.insert(0, max(1, min(sides[0] - 1, round(sides[0] / ratio))))
    return tuple(sides)


def config_of(config: Config, ladder: Ladder, output: Path) -> Config:
    """The config of a row: its levels, an encoder that halves as often as they need, folders of its own.

    Widths stay those of the config's tokenizer: of fewer resolutions the first ones and the last, of more
    the last one again. Nothing is compiled that the config leaves to the number of steps, and nothing is
    validated or shown before the end, since both would take of the time.

    Raises:
        ValueError: the ladder does not fit the images.
    """
    height, width = config.data.height, config.data.width
    if height != width:
        raise ValueError(f"ladders are compared on square images, got {height} x {width}")
    if ladder.levels[-1] * ladder.downsampling != height:
        raise ValueError(
            f"row {ladder}: the finest level, {ladder.levels[-1]}, times the factor, {ladder.downsampling}, "
            f"must be the image's side, data.height={height}"
        )
    multipliers = list(config.tokenizer.channel_multipliers)
    more = math.log2(ladder.downsampling / config.tokenizer.downsampling)
    if more % 1 or len(multipliers) + more < 1:
        raise ValueError(
            f"row {ladder}: the factor must be tokenizer.patch={config.tokenizer.patch} or that times 2, 4, "
            f"8 and so on, got {ladder.downsampling}"
        )
    kept = multipliers[: len(multipliers) - 1 + min(0, int(more))]
    multipliers = [*kept, *[multipliers[-1]] * (1 + max(0, int(more)))]

    folder = output / str(ladder)
    return replace(
        config,
        run=str(folder / "generator"),
        tokenizer_run=str(folder / "tokenizer"),
        tokenizer=replace(
            config.tokenizer, levels=[[side, side] for side in ladder.levels], channel_multipliers=multipliers
        ),
        tokenizer_training=undisturbed(config.tokenizer_training),
        generator_training=undisturbed(config.generator_training),
    )


def undisturbed(training: T) -> T:
    """The training of a row: of its own levels alone, without anything that takes of the time."""
    return replace(
        training,
        pyramids=[],
        compile="none" if training.compile == "auto" else training.compile,
        validate_every=0,
        preview_every=0,
        patience=0,
    )


def check_judge(config: Config, judge: str) -> None:
    """Checks, before anything is trained, that the judge can look at the images and is not trained against.

    Raises:
        ValueError: its weights are missing, it measures no distance or takes other images, or tokenizers are
            trained against the same network.
    """
    extractor = feature_extractor(judge, config.evaluation.inception_weights)
    if isinstance(extractor, ShapeReader):
        raise ValueError(f"--judge {judge} reads shapes and measures no distance: choose another")
    if trained_against(config, judge):
        raise ValueError(
            f"--judge {judge} cannot judge tokenizers that are trained against its network "
            f"(tokenizer_training.perceptual.network={config.tokenizer_training.perceptual.network}): choose "
            "another"
        )

    data = config.data
    try:
        extractor(torch.zeros(1, data.channels, data.height, data.width, dtype=torch.uint8))
    except ValueError as error:
        raise ValueError(f"--judge {judge} cannot look at these images: {error}") from error


# --------------------------------------------------------------------------------------------- one row


def in_steps(config: Config, kind: Trained, minutes: float, accelerator: Accelerator) -> Config:
    """The config with as many steps of a training as take these minutes here, which are kept in its folder.

    Raises:
        ValueError: the folder was planned for another time.
    """
    folder = Path(config.tokenizer_run if kind == "tokenizer" else config.run)
    planned = planned_in(folder, minutes)
    if not planned:
        seconds = seconds_of_a_step(config, kind, TIMED_STEPS, accelerator)
        steps = max(1, round(60 * minutes / seconds))
        planned = {"minutes": minutes, "seconds_of_a_step": seconds, "steps": steps}
        KeptResults[float](folder / STEPS, {}, "planned").add(planned)

    steps = int(planned["steps"])
    if kind == "tokenizer":
        return replace(config, tokenizer_training=replace(config.tokenizer_training, steps=steps))
    return replace(config, generator_training=replace(config.generator_training, steps=steps))


def planned_in(folder: Path, minutes: float) -> dict[str, float]:
    """The plan that a training's folder notes; empty if there is none.

    Raises:
        ValueError: it was planned for another time.
    """
    planned = KeptResults[float](folder / STEPS, {}, "planned").results
    if planned and planned["minutes"] != minutes:
        raise ValueError(
            f"{folder} was planned for {planned['minutes']:g} minutes of training, not {minutes:g}: choose "
            f"another --output, or move that folder away"
        )
    return planned


def measured_row(
    config: Config, ladder: Ladder, minutes: Minutes, judge: str, output: Path, accelerator: Accelerator
) -> Row:
    """A row, trained and scored unless that is done already.

    Raises:
        ValueError: it cannot be trained, or was begun with other settings.
    """
    of_row = in_steps(config_of(config, ladder, output), "tokenizer", minutes.tokenizer, accelerator)
    tokenizer = train_tokenizer(of_row, accelerator)
    if minutes.generator:
        of_row = in_steps(of_row, "generator", minutes.generator, accelerator)
        train_generator(of_row, tokenizer, accelerator)

    kept = kept_row(of_row, minutes, judge, output / str(ladder))
    if not kept.results:
        extractor = feature_extractor(judge, config.evaluation.inception_weights)
        scores = score_tokenizer(of_row, tokenizer, accelerator, features=[judge])
        values, compared = scores["tokenizer"]["values"], scores[f"tokenizer/{extractor.name}"]
        row = row_of(ladder, of_row, tokenizer, values, compared, minutes, judge)
        kept.add({"row": asdict(row)})
    return ROW.validate_python(kept.results["row"])


def kept_row(of_row: Config, minutes: Minutes, judge: str, folder: Path) -> KeptResults[Json]:
    """What is kept of a row that was measured with these models, test images and judge."""
    rests_on = {
        "tokenizer": weights_hash(Path(of_row.tokenizer_run) / "tokenizer"),
        "generator": weights_hash(Path(of_row.run) / "generator") if minutes.generator else None,
        "images": fingerprint(of_row, train=False),
        "evaluation": asdict(of_row.evaluation),
        "judge": judge,
        "versions": versions(),
    }
    return KeptResults(folder / "row.json", rests_on, "measured")


def row_of(
    ladder: Ladder,
    of_row: Config,
    tokenizer: VQTokenizer,
    values: Mapping[str, float],
    compared: Record,
    minutes: Minutes,
    judge: str,
) -> Row:
    """A row from the scores of its tokenizer and the logs of its trainings."""
    levels = range(tokenizer.pyramid.num_levels)
    folder, training = Path(of_row.tokenizer_run), of_row.tokenizer_training
    (frechet,) = [name for name in compared["values"] if name.startswith(("frechet_distance", "fid"))]
    floor = compared["floor"]
    assert floor is not None, "the floor of reconstructions is always measured"

    nats = None
    if minutes.generator:
        run = Path(of_row.run)
        step = TrainingNotes.read(run / "generator").step
        found = costs(read_log(run / "log.jsonl"), of_row.generator_training.batch, step)
        nats = found["validation/loss"] * ladder.tokens

    return Row(
        ladder=str(ladder),
        judge=judge,
        tokens=ladder.tokens,
        codes=tokenizer.quantizer.num_codes,
        parameters=trainable(tokenizer),
        steps=training.steps,
        images=training.steps * training.batch,
        minutes=minutes_of_training(read_log(folder / "log.jsonl"), training.batch),
        bits=bits([values[f"perplexity/level_{level}"] for level in levels], tokenizer.pyramid),
        psnr=values["psnr"],
        distance=compared["values"][frechet],
        floor=floor[frechet],
        compared=compared["num_images"],
        usage=[values[f"usage/level_{level}"] for level in levels],
        hue_error=values.get("hue_error"),
        chroma_kept=values.get("chroma_kept"),
        generator_steps=of_row.generator_training.steps if minutes.generator else None,
        nats=nats,
    )


# ------------------------------------------------------------------------------------------ the table


def rows_in(output: Path, minutes: Minutes, judge: str) -> list[Row]:
    """The rows below a study's folder that this judge looked at, by number of tokens.

    Raises:
        ValueError: some were planned for another time, and would not compare.
    """
    for file in sorted(output.glob(f"*/*/{STEPS}")):
        asked = minutes.tokenizer if file.parent.name == "tokenizer" else minutes.generator
        if asked:
            planned_in(file.parent, asked)

    files = output.glob("*/row.json")
    found = [ROW.validate_python(json.loads(file.read_text())["measured"]["row"]) for file in files]
    mine = [row for row in found if row.judge == judge]
    return sorted(mine, key=lambda row: (row.tokens, row.ladder))


def write_study(config: Config, minutes: Minutes, judge: str, output: Path) -> str:
    """Writes the table of all measured rows, ladders.md and ladders.json beside it: the table."""
    rows = rows_in(output, minutes, judge)
    about = {
        "data": config.data.record(),
        "minutes": asdict(minutes),
        "judge": judge,
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
    table = as_markdown(rows, config.data.source, minutes, judge)
    write_json(output / FILE, {"about": about, "rows": [asdict(row) for row in rows]})
    write_text(output / "ladders.md", table)
    return table


def as_markdown(rows: Sequence[Row], source: str, minutes: Minutes, judge: str) -> str:
    """A row for each ladder; columns without any value are left out."""
    columns: dict[str, Callable[[Row], str | None]] = {
        "levels": lambda row: row.ladder.partition("_by_")[0],
        "downsampling": lambda row: f"{row.ladder.partition('_by_')[2]}x",
        "tokens": lambda row: str(row.tokens),
        "bits an image": lambda row: f"{row.bits:.0f}",
        "PSNR, dB": lambda row: f"{row.psnr:.2f}",
        "distance": lambda row: plain(row.distance),
        "codes used by level, %": lambda row: " ".join(f"{100 * share:.0f}" for share in row.usage),
        "error of hue, degrees": lambda row: None if row.hue_error is None else f"{row.hue_error:.1f}",
        "chroma kept": lambda row: None if row.chroma_kept is None else f"{row.chroma_kept:.2f}",
        "nats an image": lambda row: None if row.nats is None else f"{row.nats:.1f}",
        "parameters": lambda row: f"{row.parameters:,}",
        "steps": lambda row: f"{row.steps:,}",
        "minutes": lambda row: f"{row.minutes:.1f}",
    }
    cells = {name: [cell(row) for row in rows] for name, cell in columns.items()}
    shown = {name: column for name, column in cells.items() if any(cell is not None for cell in column)}
    table = markdown_table(
        list(shown), [[cell or "-" for cell in line] for line in zip(*shown.values(), strict=True)]
    )
    return f"{intro(rows, source, minutes, judge)}\n\n{table}\n"


def intro(rows: Sequence[Row], source: str, minutes: Minutes, judge: str) -> str:
    """What the table's numbers are, in sentences."""
    of_generator = ""
    if any(row.nats is not None for row in rows):
        of_generator = (
            f" Nats an image: the validation loss of a generator that was trained for {minutes.generator:g} "
            f"minutes on these tokens, times their number."
        )
    floors = sorted({f"{plain(row.floor)} for {row.compared} on either side" for row in rows})
    codes = sorted({f"{row.codes:,}" for row in rows})
    return (
        f"Tokenizers of {', '.join(codes) or 'no'} codes on {source}, {minutes.tokenizer:g} minutes of "
        f"training each, in as many steps as this machine was timed to do. Bits: in an image's tokens at the "
        f"frequencies of the codes. Distance: Frechet, {judge}, of reconstructions of one half of the test "
        f"images from the other half (real images: {', '.join(floors) or 'not measured'}).{of_generator}"
    )


def plan_of(config: Config, ladders: Sequence[Ladder], minutes: Minutes, judge: str, output: Path) -> str:
    """What would be done, a line a row, and what it takes in all; scores and timing come on top.

    Raises:
        ValueError: a row does not fit the images, or others there were planned for another time.
    """
    rows = rows_in(output, minutes, judge)
    done = {row.ladder for row in rows if row.nats is not None or not minutes.generator}
    lines = [["row", "tokens", "parameters", ""]]
    for ladder in ladders:
        with torch.device("meta"):
            parameters = trainable(build_tokenizer(config_of(config, ladder, output)))
        todo = "is there" if str(ladder) in done else "to do"
        lines.append([str(ladder), str(ladder.tokens), f"{parameters:,}", todo])

    left = sum(str(ladder) not in done for ladder in ladders)
    seconds = 60 * left * (minutes.tokenizer + minutes.generator)
    generator = f" and {minutes.generator:g} of a generator" if minutes.generator else ""
    return (
        f"{aligned_table(lines)}\n{number_of(left, 'row')} of {minutes.tokenizer:g} minutes of a "
        f"tokenizer{generator}: {duration(seconds)} of training in all, into {output}; the first reading "
        "of pictures, timing and scoring are not in it"
    )
