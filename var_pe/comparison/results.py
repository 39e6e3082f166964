"""A study's results as one JSON file, from which every table and chart is made without any training.

Nothing in it but `times` depends on when and where the study ran, or on how often it was stopped. What makes
pages of it needs this file and no model: it imports no torch.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NotRequired, TypedDict, cast

from var_pe.files import write_json

FORMAT = 1
FILE = "comparison.json"


class Curve(TypedDict):
    """A logged quantity."""

    steps: list[int]
    values: list[float]


class Times(TypedDict):
    """What depends on the machine and the day."""

    finished: str
    seconds_per_step: NotRequired[float]
    peak_memory_gb: NotRequired[float]


class Record(TypedDict):
    """What scores rest on, as far as a page says it (evaluation/records.py has all)."""

    values: dict[str, float]
    features: NotRequired[dict[str, str | bool]]
    num_images: int
    reference: dict[str, str | int]


class AtSize(TypedDict):
    """A trained generator at other levels than it was trained on."""

    grids: list[list[int]]
    # how its tables were resampled; empty where it followed by itself
    convention: str
    # nats per token, of all and level by level
    loss: float
    by_level: list[float]


class CellResult(TypedDict):
    """The result of a finished cell; nothing but `times` depends on when and where it was made."""

    # by the names that metrics.json and logs have
    values: dict[str, float]
    # the scores of every drawing, by its seed; those of the first are among `values`
    drawings: dict[str, dict[str, float]]
    curves: dict[str, Curve]
    # mean loss of each token of the pyramid
    nats_by_place: list[float]
    # what the scores rest on, as in metrics.json
    records: dict[str, Record]
    # scores of real images, by the names of the values
    floor: dict[str, float]
    # the drawn images that the report shows side by side, a PNG in base64, and their classes
    picture: str
    classes: list[str]
    # at the study's other sizes
    sizes: NotRequired[list[AtSize]]
    times: Times


class TokenizerScores(TypedDict):
    """The scores of a tokenizer by itself, on the test split."""

    folder: str
    psnr: float
    # grids as a person writes them, and each level's perplexity and share of codes that occur
    levels: list[str]
    perplexity: list[float]
    usage: list[float]
    codebook_size: int
    num_images: int
    # whether it is good, and what to change
    verdict: str


class Exact(TypedDict):
    """What the tokens of made-up pictures hold given the class, counted over all, in nats an image."""

    # all there are, and how many of them have different tokens
    pictures: int
    distinct: int
    # of each level given the coarser ones, on average over all pictures
    nats_of_all: list[float]
    # the same over the test images that validations look at
    nats_by_level: list[float]
    # of each token by itself given the coarser levels: what a generator can reach that draws a level at once
    nats_by_place: list[float]
    images: int


class Shared(TypedDict):
    """Results that all cells share."""

    tokenizers: list[TokenizerScores]
    # real images and their reconstructions, as CellResult.picture; empty where there are none
    real: str
    reconstructed: str
    grids: list[list[int]]
    extractors: list[dict[str, object]]
    # what an encoding costs a step, measured in turns
    times: dict[str, list[dict[str, object]]]
    # dimensions of the span of the sinusoid, of so many
    sinusoid: dict[str, int]
    # what fixed maps of rotary coordinates are on these grids: of each level scale and offset along y and x
    maps: NotRequired[dict[str, list[list[float]]]]
    # by the tokenizer's folder, where all pictures were counted
    exact: NotRequired[dict[str, Exact]]


class Chosen(TypedDict):
    """The learning rate and guidance of an arm's runs, and the scores that they were chosen by."""

    learning_rate: float
    guidance: float
    # nats per token by learning rate, distance by guidance scale
    nats: dict[str, float]
    distances: dict[str, float]
    # learning rates at which the training diverged
    diverged: NotRequired[list[str]]


class ArmEntry(TypedDict):
    """An arm, and how it differs from the first one."""

    name: str
    place: list[str]
    encoding: str
    level_embedding: str
    seeds: list[int]
    differs_in: list[str]
    handicapped: bool
    # the arm that it is compared with; its own name: with none
    compared_with: str
    chosen: Chosen | None
    # the folder of its tokenizer, and the grids of its levels where results say them of every arm
    tokenizer: NotRequired[str]
    grids: NotRequired[list[list[int]]]
    # the grids of everything that it was trained on
    trained_at: NotRequired[list[list[list[int]]]]


class CellEntry(TypedDict):
    """A cell: its result, or why there is none."""

    arm: str
    seed: int
    key: str
    run: str
    # None: it did not fail; where there are no values, it was not begun or not finished
    failed: str | None
    values: dict[str, float]
    drawings: dict[str, dict[str, float]]
    curves: dict[str, Curve]
    nats_by_place: list[float]
    # of the first seed alone
    picture: str
    classes: list[str]
    sizes: NotRequired[list[AtSize]]


class AllTimes(TypedDict):
    """What depends on the machine and the day."""

    written: str
    cells: dict[str, Times]
    steps: list[dict[str, object]]
    own_processes: bool
    device: str
    threads: int


class Results(TypedDict):
    """A study's results."""

    format: int
    command: str
    study: dict[str, object]
    arms: list[ArmEntry]
    cells: list[CellEntry]
    primary: str
    margin: float
    # further margins, as shares of what the handicapped arm loses
    handicap_margins: NotRequired[list[float]]
    # what whoever made the study says of it
    remarks: NotRequired[list[str]]
    # scores of real images, by the names of the values
    floor: dict[str, float]
    records: dict[str, Record]
    # what some quantities are called, and whether lower or higher is better
    labels: list[tuple[str, str, str]]
    # scores of fewer images than this are unreliable
    few_images: int
    shared: Shared
    # the settings of the first arm, resolved
    config: dict[str, object]
    versions: dict[str, str]
    times: AllTimes


def write(results: Results, folder: Path) -> None:
    """Writes the file."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / FILE, results, allow_nan=False)


def read(file: Path) -> Results:
    """Reads it.

    Raises:
        ValueError: it is not such a file, or one of another version's.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error})") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT or not found.keys() >= {"arms", "cells"}:
        raise ValueError(f"{file} is not the {FILE} of a study of this version (format {FORMAT})")
    return cast(Results, found)


def thinned(curve: Curve, points: int) -> Curve:
    """Every so many-th of a curve's points, so that at most `points` are left, the last one among them."""
    every = -(-len(curve["steps"]) // points)
    last = len(curve["steps"]) - 1
    kept = [place for place in range(last + 1) if (last - place) % every == 0]
    return {
        "steps": [curve["steps"][place] for place in kept],
        "values": [curve["values"][place] for place in kept],
    }


def grids_of(results: Results, arm: ArmEntry) -> list[list[int]]:
    """The grids of an arm's levels, coarse to fine."""
    return arm.get("grids", results["shared"]["grids"])


def without_times(results: Mapping[str, object]) -> dict[str, object]:
    """The results without all times: equal for two runs of one study, however often each was stopped."""
    return {name: value for name, value in results.items() if name != "times"}
