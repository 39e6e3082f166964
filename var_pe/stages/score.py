"""Scores of a trained run: of its drawn images, its tokenizer and its classifier."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import Dataset

from var_pe.data.part import drawn
from var_pe.evaluation.classifier import ClassifierFeatures
from var_pe.evaluation.extraction import ScoredImages
from var_pe.evaluation.features import FeatureSet
from var_pe.evaluation.metrics import FEW_IMAGES, half_numbers, halves
from var_pe.evaluation.records import read_metrics, record, versions, write_metrics
from var_pe.evaluation.segmentation import check_library
from var_pe.evaluation.shapes_reader import ShapeReader
from var_pe.files import written_whole
from var_pe.models.classifier import ImageModel
from var_pe.models.tokenizer import VQTokenizer
from var_pe.processes import Processes
from var_pe.progress import number_of
from var_pe.pyramid import Pyramid
from var_pe.resampling.conventions import DEFAULT_CONVENTION
from var_pe.sampling.folder import drawn_with
from var_pe.stages.config import Config, Kind
from var_pe.stages.drawn_images import Labelled
from var_pe.stages.features import compared, described, feature_extractor, floor, recognised, top1
from var_pe.stages.images import (
    RealImages,
    Reconstructions,
    fingerprint,
    held_out_images_at,
    picture_box,
)
from var_pe.stages.models import (
    find_tokenizer,
    load_classifier,
    load_model,
    load_tokenizer,
    weights_hash,
)
from var_pe.stages.on_maps import ON_MAPS
from var_pe.stages.pyramids import tokenizer_pyramids
from var_pe.tasks.tokenizer_quality import validate_tokenizer
from var_pe.training.notes import TrainingNotes

REFERENCES = ("images", "reconstructions")

Found = dict[str, Any]  # records by the keys that they have in metrics.json


def score_images(
    config: Config,
    folder: Path,
    accelerator: Accelerator,
    *,
    features: list[str],
    reference: str = "images",
    inception_weights: str | None = None,
    known: dict[tuple[str, str], FeatureSet] | None = None,
) -> Found:
    """Scores a folder of images against a real split or its reconstructions; adds the scores to metrics.json.

    The number of reference images is that of the generated ones, at most half of the split and at most
    `evaluation.images`. So the floor, the other half against the same reference, has the same number of
    images. `known` keeps the reference's features for later calls with the same data.

    The scores' keys begin with the name of the folder above `folder` if that is the run's own, else with the
    whole path, so that no two folders share a key; what drew those images is not known.
    """
    known = {} if known is None else known
    if reference not in REFERENCES:
        raise ValueError(f"reference is one of {', '.join(REFERENCES)}, got {reference!r}")

    # The drawn images and the reference
    evaluation = config.evaluation
    images = RealImages(config, train=evaluation.reference_split == "train")
    drawn = Labelled(folder, images.images.class_names)
    classes, all_classes = len(set(drawn.labels) - {-1}), len(images.images.class_names)
    if 0 < classes < all_classes:
        warnings.warn(
            f"{folder} has pictures of {classes} of {all_classes} classes, but they are compared with images "
            "of all, so missing classes make the scores worse, too",
            stacklevel=2,
        )
    real: RealImages | Reconstructions = images
    if reference == "reconstructions":
        real = Reconstructions(images, load_tokenizer(config).to(accelerator.device))

    # The run's own folder has a short name, and its generator drew the images.
    folder = folder.resolve()
    own = folder.name == "images" and folder.parent.parent == Path(config.run).resolve()
    prefix = folder.parent.name if own else str(folder)
    notes = TrainingNotes.read(Path(config.run) / "generator") if own else TrainingNotes()

    found = {}
    for name in features:
        # One half of the reference is compared with the drawn images, and with the other half for the floor.
        first, second = half_numbers(len(real), min(len(drawn), evaluation.images or len(drawn)))
        both = torch.cat([first, second])

        # Every folder is scored against the same features of the reference.
        extractor = feature_extractor(name, inception_weights or evaluation.inception_weights)
        key = (reference, f"{extractor.name} {extractor.weights_sha256} {len(both)}")
        if key not in known:
            known[key] = described(extractor, Chosen(real, both.sort().values), accelerator)
        place = both.argsort().argsort()  # of each image in the order of the split
        other_half = known[key].take(place[: len(first)])
        theirs = known[key].take(place[len(first) :])

        ours = described(extractor, drawn, accelerator)
        class_names = images.images.class_names
        values = compared(extractor, ours, theirs, class_names)
        values |= recognised(extractor, ours, known[key])

        found[f"{prefix}/{reference}/{extractor.name}"] = record(
            values,
            extractor=extractor,
            num_images=len(ours),
            reference=f"{reference} of {config.data.source}",
            reference_split=evaluation.reference_split,
            num_reference=len(second),
            floor=floor(extractor, other_half, theirs, class_names),
            sampler=drawn_with(folder.parent),
            seeds={"generator": config.seed, "images": config.sampling.seed, "scores": 0},
            step=notes.step,
            ema=notes.ema,
            images=str(folder),
            skipped=drawn.images.skipped,
        )

    if accelerator.is_main_process:
        write_metrics(Path(config.run) / "metrics.json", found)
    accelerator.wait_for_everyone()
    return found


class Chosen(Dataset[tuple[Tensor, int]]):
    """The images of these numbers."""

    def __init__(self, images: ScoredImages, numbers: Tensor) -> None:
        self.images, self.numbers = images, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[int(self.numbers[index])]


def _scored_pyramids(config: Config, tokenizer: VQTokenizer, folder: Path) -> list[Pyramid]:
    """First the ladder at the config's size, then the others of `tokenizer_training.pyramids`.

    The first is the tokenizer's own, whatever ladder the config describes; at another size, the config's.

    Raises:
        ValueError: neither is for images of the config's size.
    """
    described, *others = tokenizer_pyramids(config)
    size = (config.data.height, config.data.width)
    for first in (tokenizer.pyramid, described):
        if tokenizer.image_size(first) == size:
            return [first, *(other for other in others if other != first)]

    height, width = tokenizer.image_size(tokenizer.pyramid)
    raise ValueError(
        f"data.height and data.width are those of the tokenizer in {folder}, {height} and {width}, or those "
        f"of tokenizer.levels at its {tokenizer.downsampling}x downsampling, got {size[0]} and {size[1]}"
    )


def score_tokenizer(
    config: Config,
    tokenizer: VQTokenizer,
    accelerator: Accelerator,
    *,
    features: Sequence[str] = (),
    inception_weights: str | None = None,
) -> Found:
    """PSNR, usage and perplexity per level on the whole test split; scores of reconstructions against images.

    Like generated images, the reconstructions of one half of the split are compared with the images of the
    other half; of two parts of `evaluation.images`, if these are fewer. The floor compares the images of both
    halves.
    """
    folder = find_tokenizer(config).parent
    tokenizer = tokenizer.to(accelerator.device)
    notes = TrainingNotes.read(folder / "tokenizer")

    # The whole test split, under each pyramid
    real, pyramids = RealImages(config, train=False), _scored_pyramids(config, tokenizer, folder)
    Processes.of(accelerator).say(f"scoring the tokenizer on {number_of(len(real), 'test image')}")
    held_out = {
        pyramids[0]: (real.images, picture_box(config)),
        **held_out_images_at(config, pyramids[1:], tokenizer.downsampling),
    }

    values = validate_tokenizer(tokenizer, held_out, accelerator)

    found: Found = {
        "tokenizer": {
            "values": {name.removeprefix("validation/"): value for name, value in values.items()},
            "tokens_per_image": tokenizer.pyramid.num_tokens,
            "codebook_size": tokenizer.quantizer.num_codes,
            "num_images": len(real),
            "split": "test",
            "psnr_area": list(held_out[pyramids[0]][1]),
            "images": fingerprint(config, train=False),
            "weights": {"step": notes.step, "ema": notes.ema, "sha256": weights_hash(folder / "tokenizer")},
        }
    }

    # All of them, or as many as evaluation.images allows on either side
    most = 2 * config.evaluation.images or len(real)
    scored = real.part(drawn(len(real), most, config.data.subset_seed))
    for name in features:
        extractor = feature_extractor(name, inception_weights or config.evaluation.inception_weights)
        originals = described(extractor, scored, accelerator)
        rebuilt = described(extractor, Reconstructions(scored, tokenizer), accelerator)

        # One half against the other
        half = len(scored) // 2
        first, second = halves(originals, half)
        class_names = real.images.class_names
        values = compared(extractor, halves(rebuilt, half)[0], second, class_names)
        found[f"tokenizer/{extractor.name}"] = record(
            values | recognised(extractor, rebuilt, originals),
            extractor=extractor,
            num_images=half,
            reference=f"images of {config.data.source}",
            reference_split="test",
            num_reference=half,
            floor=floor(extractor, first, second, class_names),
            sampler=None,
            seeds={"tokenizer": config.tokenizer_seed, "scores": 0},
            step=notes.step,
            ema=notes.ema,
        )

    if accelerator.is_main_process:
        write_metrics(folder / "metrics.json", found)
    accelerator.wait_for_everyone()
    return found


def score_classifier(
    config: Config,
    accelerator: Accelerator,
    size: Sequence[int] | None = None,
    resample: str = DEFAULT_CONVENTION,
) -> Found:
    """Top-1 on the whole test split; `size` (rows and columns of pixels) scores at a size without training.

    Raises:
        ValueError: the classifier cannot move to `size`.
    """
    folder, name = Path(config.run) / "classifier", "classifier"
    model, notes = load_classifier(folder), TrainingNotes.read(folder)
    if size is not None:
        config, name = moved(model, name, config, size, resample)
    extractor = ClassifierFeatures(model, Path(config.run).name, weights_hash(folder))

    features = described(extractor, RealImages(config, train=False), accelerator)
    found = {
        name: {
            "values": {"top1": top1(features)},
            "num_images": len(features),
            "split": "test",
            "images": fingerprint(config, train=False),
            "weights": {"step": notes.step, "ema": notes.ema, "sha256": weights_hash(folder)},
        }
    }
    if accelerator.is_main_process:
        write_metrics(Path(config.run) / "metrics.json", found)
    accelerator.wait_for_everyone()
    return found


def moved(
    model: ImageModel, name: str, config: Config, size: Sequence[int], resample: str
) -> tuple[Config, str]:
    """Moves a model to a size; returns the config of images of that size, and the name of its scores.

    Raises:
        ValueError: the model cannot move there.
    """
    height, width = size
    model.set_input_size((height, width), resample)
    return replace(config, data=config.data.at_size(height, width)), f"{name}/{height}x{width}/{resample}"


def score_on_maps(
    kind: Kind,
    config: Config,
    accelerator: Accelerator,
    size: Sequence[int] | None = None,
    resample: str = DEFAULT_CONVENTION,
) -> Found:
    """The scores of a segmenter (`evaluation.segmentation.Overlaps`) or detector (COCO's) on the test split.

    Also draws results.png. `size` (rows and columns of pixels) scores at a size without training, and draws
    nothing.

    Raises:
        ValueError: the model cannot move to `size`.
    """
    check_library()
    folder, parts = Path(config.run) / kind, ON_MAPS[kind]
    model, name = load_model(parts.model, folder), str(kind)
    if size is not None:
        config, name = moved(model, name, config, size, resample)

    images = parts.images(config, train=False)
    values = parts.validate(model.to(accelerator.device), images, accelerator)
    found = {name: _of_weights(folder, values, config, len(images))}
    picture = partial(parts.sheet, model, images) if size is None else None
    write_scores(config, found, picture, accelerator)
    return found


def write_scores(
    config: Config, found: Found, draw: Callable[[], Image] | None, accelerator: Accelerator
) -> None:
    """Puts scores into the run's metrics.json, and what `draw` draws, if anything, into results.png."""
    run = Path(config.run)

    def write() -> None:
        write_metrics(run / "metrics.json", found)
        if draw is not None:
            with written_whole(run / "results.png") as draft:
                draw().save(draft, format="PNG")

    Processes.of(accelerator).on_main(write)


def _of_weights(folder: Path, values: Mapping[str, float], config: Config, number: int) -> dict[str, Any]:
    """The record of a model's scores on the test split."""
    notes = TrainingNotes.read(folder)
    return {
        "values": dict(values),
        "num_images": number,
        "split": "test",
        "images": fingerprint(config, train=False),
        "weights": {"step": notes.step, "ema": notes.ema, "sha256": weights_hash(folder)},
        "versions": versions() | {name: metadata.version(name) for name in ("torchmetrics", "pycocotools")},
    }


def is_scored(config: Config, run: Path, kind: str) -> bool:
    """Whether a run's metrics.json has the scores of its finished model on the test images that are there.

    If the images are gone, or the hub is out of reach, nothing can be scored anew, and the scores stand.
    """
    entry = read_metrics(run / "metrics.json").get(kind, {})
    if entry.get("weights", {}).get("sha256") != weights_hash(run / kind):
        return False
    try:
        return entry.get("images") == fingerprint(config, train=False)
    except ValueError:
        return True


def summary(found: Found) -> str:
    """The values of records as lines of text, each with its floor if there is one."""
    lines = []
    for key, entry in found.items():
        lines.append(f"{key} ({number_of(entry['num_images'], 'image')})")
        if entry.get("skipped"):
            counts = ", ".join(f"{number} {ending}" for ending, number in sorted(entry["skipped"].items()))
            lines.append(f"  left out, because they cannot be read as pictures: {counts}")
        beside = entry.get("floor") or {}
        for name, value in entry["values"].items():
            real = f"   (real against real: {beside[name]:.4g})" if name in beside else ""
            lines.append(f"  {name:<44} {value:.4g}{real}")
    return "\n".join(lines)


def for_equal_counts(found: Found, run: str) -> str:
    """Where few real images had more drawn ones beside them: so, and what scores equal numbers; else ""."""
    for entry in found.values():
        drawn, real = entry["num_images"], entry["reference"]["num_images"]
        if entry["features"]["name"] == ShapeReader.name or not real < min(drawn, FEW_IMAGES):
            continue

        said = (
            f"{drawn} drawn images were compared with {real} real ones (at most half of the "
            f"{entry['reference']['split']} split, as the other half is for the floor, and at most "
            f"evaluation.images), but the floor is of {real} against {real}: with unequal numbers the scores "
            f"and the floor do not say which is better"
        )
        classes = drawn // (entry["sampler"] or {}).get("images_per_class", drawn)
        of_class = real // max(1, classes)
        if not of_class:
            return f"{said}; evaluation.reference_split=train has more real ones"
        output = f"{run}/drawn_{of_class}"
        return (
            f"{said}. For equal ones: python scripts/sample.py --run {run} --count {of_class} --output "
            f"{output} && python scripts/evaluate.py --run {run} --images {output}/images"
        )
    return ""
