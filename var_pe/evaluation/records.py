"""metrics.json: scores by key, each with the facts that it rests on."""

import fcntl
import json
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from var_pe.evaluation.features import FeatureExtractor
from var_pe.files import write_json

LIBRARIES = ("torch", "torchvision", "torch-fidelity", "diffusers", "accelerate", "numpy")


class ExtractorOfRecord(TypedDict):
    """What looked at the images."""

    name: str
    weights_sha256: str
    comparable_with_papers: bool


class ReferenceOfRecord(TypedDict):
    """The images that were compared with."""

    set: str
    split: str
    num_images: int


class WeightsOfRecord(TypedDict):
    """What made the images; None where only a folder of images is known."""

    step: int | None
    ema: bool | None


class Record(TypedDict):
    """The scores of a set of images, and what they rest on."""

    values: dict[str, float]

    # scores of real images against real ones, at the same count
    floor: dict[str, float] | None
    features: ExtractorOfRecord
    num_images: int
    reference: ReferenceOfRecord

    # guidance, top_k, top_p, temperature, ...; None where nothing was sampled
    sampler: dict[str, object] | None

    # of images, scores and whatever else was random
    seeds: dict[str, int]
    weights: WeightsOfRecord
    versions: dict[str, str]

    # the folder that was scored, and how many files in it were not pictures, by their endings
    images: NotRequired[str]
    skipped: NotRequired[dict[str, int]]


def record(
    values: Mapping[str, float],
    *,
    extractor: FeatureExtractor,
    num_images: int,
    reference: str,
    reference_split: str,
    num_reference: int,
    floor: Mapping[str, float] | None,
    sampler: Mapping[str, object] | None,
    seeds: Mapping[str, int],
    step: int | None,
    ema: bool | None,
    images: str | None = None,
    skipped: Mapping[str, int] | None = None,
) -> Record:
    """An entry of metrics.json; `values` come from `metrics.scores`, `floor` from `metrics.floor`."""
    made = Record(
        values=dict(values),
        floor=None if floor is None else dict(floor),
        features=ExtractorOfRecord(
            name=extractor.name,
            weights_sha256=extractor.weights_sha256,
            comparable_with_papers=extractor.comparable,
        ),
        num_images=num_images,
        reference=ReferenceOfRecord(set=reference, split=reference_split, num_images=num_reference),
        sampler=None if sampler is None else dict(sampler),
        seeds=dict(seeds),
        weights=WeightsOfRecord(step=step, ema=ema),
        versions=versions(),
    )

    if images is not None:
        made["images"] = images
    if skipped:
        made["skipped"] = dict(skipped)
    return made


def versions() -> dict[str, str]:
    """The versions of Python and of the libraries that compute the scores."""
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in LIBRARIES}


def write_metrics(path: Path | str, records: Mapping[str, Mapping[str, object]]) -> None:
    """Puts records into metrics.json by key, such as `generated/efficientnet_lite0`; others stay as they are.

    The file is replaced in one step, under a lock: neither a kill nor a second evaluation loses an entry.

    Raises:
        ValueError: the file is not a JSON object, a record is not a mapping, or a value is NaN.
    """
    path = Path(path)
    for key, value in records.items():
        if not isinstance(value, Mapping):
            raise ValueError(f"{path.name} maps keys to records, got {type(value).__name__} for {key!r}")

    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f".{path.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        write_json(path, read_metrics(path) | dict(records), allow_nan=False)


def read_metrics(path: Path | str) -> dict[str, Any]:
    """All records of a metrics.json; none if the file is not there."""
    path = Path(path)
    if not path.exists():
        return {}

    try:
        found = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}): move it away to start a new one") from None

    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(found).__name__}")
    return found
