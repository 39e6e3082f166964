"""Folders of drawn images: resumable, the same on any number of processes."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from var_pe.files import remove_drafts, write_text, written_whole
from var_pe.models.numbers import RULE
from var_pe.processes import Processes
from var_pe.sampling.config import SamplingConfig
from var_pe.sampling.drawing import draw_images_and_tokens
from var_pe.sampling.pipeline import VARPipeline
from var_pe.sampling.png import read_png, write_png

SETTINGS = "sampling.json"  # what a folder's images are drawn with
# Settings that earlier versions did not write down: all of them drew with these values
NOT_NOTED: dict[str, object] = {"scale_guidance": 0.0, "draws_per_image": 1, "remap": "none"}


def class_of(number: int, config: SamplingConfig) -> int:
    """Images are numbered class by class: the first `images_per_class` numbers are class 0, and so on."""
    return number // config.images_per_class


def image_path(folder: Path, number: int, config: SamplingConfig, class_names: Sequence[str] = ()) -> Path:
    return class_folder(folder, class_of(number, config), class_names) / f"{number:07d}.png"


def class_folder(folder: Path, label: int, class_names: Sequence[str] = ()) -> Path:
    """Where a class's images are: its number, and its name as far as a file system takes it.

    A folder that has the number alone, as all had once, goes on as it is.
    """
    by_number = folder / "images" / f"{label:04d}"
    if not class_names or label >= len(class_names) or by_number.is_dir():
        return by_number
    name = plain_name(class_names[label])
    return by_number.with_name(f"{by_number.name}_{name}") if name else by_number


def plain_name(class_name: str, longest: int = 60) -> str:
    """A class's name with letters, digits, dots and dashes of its own; `T-shirt/top` is `T-shirt_top`."""
    return re.sub(r"[^\w.-]+", "_", class_name)[:longest].strip("._ ")


def number_in(folder_name: str) -> int | None:
    """The class number that a folder's name begins with, as `class_folder` writes it."""
    found = re.fullmatch(r"(\d{4,})(_.*)?", folder_name)
    return int(found[1]) if found else None


def fill_folder(
    folder: Path,
    pipeline: VARPipeline,
    config: SamplingConfig,
    *,
    weights: str,
    classes: Sequence[int] | None = None,
    keep_tokens: bool = False,
    processes: Processes = Processes(),
    on_progress: Callable[[int], object] = lambda number: None,
) -> None:
    """Draws what is still missing of `images_per_class` PNGs per class below `folder/images`.

    `classes` draws these alone; an image is the same whichever classes are drawn beside it. `keep_tokens`
    keeps the tokens of every image, too, for `kept_tokens`.
    `weights` names the weights; with the settings it stands in `folder/sampling.json`. `on_progress(n)` is
    called when this process is done with n more images.

    Raises:
        ValueError: the folder holds images of other weights or settings, or lacks some of those that an
            earlier version has begun.
    """
    # All that images follow from: the batch is not among it, and a classifier is known by its weights.
    settings = {"weights": weights, **asdict(config)}
    del settings["batch"], settings["classifier"]
    check_claim(folder, settings)
    if processes.is_main:
        remove_drafts(folder)

    names = pipeline.class_names
    of_class = config.images_per_class
    wanted = range(max(1, pipeline.transformer.num_classes)) if classes is None else classes
    chosen = [number for label in wanted for number in range(label * of_class, (label + 1) * of_class)]
    for places in processes.batches(len(chosen), config.batch):
        numbers = [chosen[place] for place in places]
        missing = [
            number
            for number in numbers
            if not image_path(folder, number, config, names).exists()
            or (keep_tokens and not tokens_path(folder, number).exists())
        ]
        if missing:
            check_numbers(folder)
            labels = [class_of(number, config) for number in missing]
            images_BCHW, tokens_BL = draw_images_and_tokens(pipeline, labels, missing, config)
            claim(folder, settings)  # not before: settings that cannot be drawn with leave no trace
            for number, image_CHW, tokens_L in zip(missing, images_BCHW, tokens_BL, strict=True):
                write_png(image_path(folder, number, config, names), image_CHW)
                if keep_tokens:
                    write_tokens(tokens_path(folder, number), tokens_L)
        on_progress(len(numbers))

    claim(folder, settings)


def tokens_path(folder: Path, number: int) -> Path:
    """Where the tokens of an image are, if they are kept."""
    return folder / "tokens" / f"{number:07d}.npy"


def write_tokens(path: Path, tokens_L: Tensor) -> None:
    path.parent.mkdir(exist_ok=True)
    with written_whole(path, flushed=False) as draft, draft.open("wb") as stream:
        np.save(stream, tokens_L.to(torch.int32).numpy())


def kept_tokens(folder: Path, numbers: Sequence[int]) -> Tensor:
    """The tokens (N, L) of the images under these numbers in a folder that keeps them."""
    rows = [np.load(tokens_path(folder, number), allow_pickle=False) for number in numbers]
    return torch.from_numpy(np.stack(rows)).long()


def claim(folder: Path, settings: Mapping[str, object]) -> None:
    """Writes down what the folder's images are drawn with, or checks that it is the same."""
    path = folder / SETTINGS
    if path.exists():
        return check_claim(folder, settings)

    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps({**settings, "numbers": RULE}, indent=2))


def drawn_with(folder: Path) -> dict[str, object] | None:
    """The settings and weights that a folder's images were drawn with; None if it has no sampling.json.

    Raises:
        ValueError: sampling.json is damaged.
    """
    path = folder / SETTINGS
    if not path.exists():
        return None
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        there = None
    if not isinstance(there, dict):
        raise ValueError(f"{path} is damaged: it must hold what the images beside it were drawn with")
    return NOT_NOTED | there


def check_claim(folder: Path, settings: Mapping[str, object]) -> None:
    """Refuses a folder whose images are drawn with other settings, or with settings that cannot be read.

    Raises:
        ValueError: it is such a folder.
    """
    there = drawn_with(folder)
    if there is None:
        return

    if there.get("weights") != settings["weights"]:
        raise ValueError(
            f"{folder} holds images that were drawn before the model was trained further, or by another "
            f"model: move {folder} away, or draw into another folder"
        )

    changed = []
    for name, value in settings.items():
        if there.get(name) != value:
            changed.append(f"{name} {there.get(name)!r} (asked: {value!r})")
    if changed:
        raise ValueError(
            f"{folder} holds images drawn with {', '.join(changed)}; ask for the same, draw into "
            f"another folder, or move this one away"
        )


def check_numbers(folder: Path) -> None:
    """Refuses to draw beside images that were drawn by another rule of random numbers; whole folders stay.

    Raises:
        ValueError: the folder is one of an earlier version.
    """
    there = drawn_with(folder)
    if there is not None and there.get("numbers") != RULE:
        raise ValueError(
            f"{folder} was begun by an earlier version, which drew other random numbers from the same seed, "
            f"and images are missing; draw into another folder, or move this one away"
        )


def write_npz(path: Path, folder: Path) -> None:
    """All images in order as ADM's evaluator reads them: `arr_0`, uint8 (N, H, W, 3)."""
    images = [read_png(file) for file in sorted((folder / "images").rglob("*.png"))]
    with written_whole(path) as draft, open(draft, "wb") as file:
        np.savez(file, arr_0=np.stack(images))
