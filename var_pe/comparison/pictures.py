"""The images that a report shows: the same seeds under every arm, real ones and reconstructions above."""

import base64
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from var_pe.data.classes import labels_of
from var_pe.evaluation.folder import to_uint8
from var_pe.models.tokenizer import VQTokenizer
from var_pe.pages.sheets import Pixels
from var_pe.sampling.config import SamplingConfig
from var_pe.sampling.folder import image_path
from var_pe.stages.config import Config
from var_pe.stages.images import held_out_images

PICTURES = 12  # images of each arm
GAP = 2  # pixels between them
LARGEST = 96  # pixels of a picture's longer side; larger ones are shrunk


def chosen_pictures(
    folder: Path, sampling: SamplingConfig, num_classes: int, class_names: Sequence[str]
) -> list[tuple[str, Path]]:
    """The first image of each class, then the second of each ..., by number and not by looks."""
    classes = max(1, num_classes)
    names = list(class_names)
    if not names:
        names = [str(label) if num_classes else "" for label in range(classes)]

    turns = Counter[int]()
    found = []
    for label in chosen_labels(sampling, num_classes):
        number = label * sampling.images_per_class + turns[label]
        turns[label] += 1
        found.append((names[label], image_path(folder, number, sampling, class_names)))
    return found


def chosen_labels(sampling: SamplingConfig, num_classes: int) -> list[int]:
    """The class of each picture that is shown; 0 without classes."""
    classes = max(1, num_classes)
    return (list(range(classes)) * sampling.images_per_class)[:PICTURES]


@torch.no_grad()
def real_strips(config: Config, tokenizer: VQTokenizer, num_classes: int) -> tuple[str, str]:
    """Test images of the classes that are shown, and what the tokenizer makes of them, as PNG in base64.

    Where there is no further image of a class, its place stays white; empty if there is none at all.
    """
    images = held_out_images(config, config.generator_training.validation_images)
    numbers: dict[int, list[int]] = {}
    for number, label in enumerate(labels_of(images)):
        numbers.setdefault(label if num_classes else 0, []).append(number)

    originals: list[Pixels | None] = []
    rebuilt: list[Pixels | None] = []
    for label in chosen_labels(config.sampling, num_classes):
        if not numbers.get(label):
            originals.append(None)
            rebuilt.append(None)
            continue
        image_CHW = images[numbers[label].pop(0)]["image"]
        rebuilt_BCHW = tokenizer.decode(tokenizer.encode(image_CHW[None].to(tokenizer.device)))
        originals.append(_pixels_of(image_CHW))
        rebuilt.append(_pixels_of(rebuilt_BCHW[0]))

    if not any(picture is not None for picture in originals):
        return "", ""
    return base64.b64encode(strip(originals)).decode(), base64.b64encode(strip(rebuilt)).decode()


def _pixels_of(image_CHW: torch.Tensor) -> Pixels:
    return to_uint8(image_CHW).permute(1, 2, 0).cpu().numpy()


def strip(pictures: Sequence[Pixels | None]) -> bytes:
    """Pictures of one size side by side in colour, as PNG; white where one is missing."""
    height, width = next(picture.shape[:2] for picture in pictures if picture is not None)
    scale = min(1.0, LARGEST / max(height, width))
    size = max(1, round(scale * width)), max(1, round(scale * height))

    row = Image.new("RGB", (len(pictures) * (size[0] + GAP) - GAP, size[1]), "white")
    for place, picture in enumerate(pictures):
        if picture is not None:
            rgb = np.tile(picture, (1, 1, 3)) if picture.shape[2] == 1 else picture
            row.paste(Image.fromarray(rgb).resize(size), (place * (size[0] + GAP), 0))

    file = io.BytesIO()
    row.save(file, format="png")
    return file.getvalue()


def pixels(file: Path) -> Pixels:
    """A picture file as an array (rows, columns, 3)."""
    return np.asarray(Image.open(file).convert("RGB"))
