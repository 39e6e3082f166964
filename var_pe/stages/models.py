"""What stages work on, given a config: models built or loaded, images opened."""

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from accelerate import Accelerator
from torch.utils.data import Dataset, IterableDataset

from var_pe import settings
from var_pe.data.images import ImageDataset, content_box
from var_pe.data.sampler import Draw
from var_pe.data.sources import open_source
from var_pe.data.streams import open_stream
from var_pe.evaluation.folder import ImageFolder
from var_pe.models.folder import SavedModel, check_folder
from var_pe.models.generator import VARTransformer
from var_pe.models.tokenizer import VQTokenizer
from var_pe.models.transfer import start_from
from var_pe.models.vit import ViTClassifier
from var_pe.stages.config import Config

M = TypeVar("M", bound=SavedModel)


def build_tokenizer(config: Config) -> VQTokenizer:
    """Raises:
    ValueError: the finest level times the downsampling factor is not the size of the images."""
    model = VQTokenizer(
        **asdict(config.tokenizer), image_channels=config.data.channels, seed=config.tokenizer_seed
    )
    rows, columns = (side * model.downsampling for side in model.pyramid.finest)
    if (rows, columns) != (config.data.height, config.data.width):
        raise ValueError(
            f"tokenizer.levels ends at {model.pyramid.finest}, which at {model.downsampling}x downsampling "
            f"means images of {rows}x{columns}, but data says {config.data.height}x{config.data.width}"
        )
    return model


def build_generator(config: Config, num_classes: int) -> VARTransformer:
    return VARTransformer(
        **asdict(config.generator),
        levels=config.tokenizer.levels,
        codebook_size=config.tokenizer.codebook_size,
        latent_channels=config.tokenizer.latent_channels,
        num_classes=num_classes,
        seed=config.seed,
    )


def build_classifier(config: Config, num_classes: int) -> ViTClassifier:
    assert config.classifier is not None
    return ViTClassifier(
        **asdict(config.classifier),
        image_size=(config.data.height, config.data.width),
        image_channels=config.data.channels,
        num_classes=num_classes,
        seed=config.seed,
    )


def initialise_from(
    config: Config, model: VARTransformer | ViTClassifier, class_names: Sequence[str] | None = None
) -> None:
    """Starts from the trained model that the config names, if it names one, instead of from the seed.

    Raises:
        ValueError: there is none, it is another model, or a generator of another tokenizer's codes.
    """
    if config.model.init_from is None:
        return
    run = Path(config.model.init_from)
    folder = run / ("generator" if isinstance(model, VARTransformer) else "classifier")
    source, notes = load_model(type(model), folder), folder / "training.json"
    if isinstance(model, VARTransformer):
        _check_codes(config, run)
    trained = json.loads(notes.read_text()).get("class_names") if notes.exists() else None
    same = not trained or not class_names or list(trained) == list(class_names)
    start_from(model, source, config.model.resample, same_classes=same)


def _check_codes(config: Config, run: Path) -> None:
    """A number means another code under another tokenizer; nothing is said where one is not there."""
    if not (run / "config.yaml").exists():
        return
    theirs, ours = settings.load(Config, run / "config.yaml").tokenizer_run, config.tokenizer_run
    folders = [Path(folder) / "tokenizer" for folder in (theirs, ours)]
    if all(folder.exists() for folder in folders) and len(set(map(weights_hash, folders))) > 1:
        raise ValueError(f"model.init_from={run} speaks the codes of {theirs}, not those of {ours}")


def load_model(cls: type[M], folder: Path) -> M:
    """A model from its diffusers folder, on the CPU, in evaluation mode.

    Raises:
        ValueError: the folder is missing, damaged or not a `cls`; its weights do not fit.
    """
    if not (folder / "config.json").exists():
        others = sorted(path.parent.name for path in folder.parent.glob("*/config.json"))
        there = f"; {folder.parent} has a {' and a '.join(others)}" if others else ""
        raise ValueError(f"{folder} holds no trained model{there or '; train it first (scripts/train.py)'}")
    check_folder(cls, folder)
    try:
        return cls.from_pretrained(folder, local_files_only=True).eval()
    except ValueError as error:  # grids that a table is stored for
        raise ValueError(f"{folder}: {error}") from error


def weights_hash(folder: Path) -> str:
    """SHA-256 of a diffusers folder's weight files."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def training_images(config: Config, accelerator: Accelerator, seed: int) -> Any:
    """The training split: an `ImageDataset`, or this process's part of an endless stream."""
    if not config.data.streaming:
        return ImageDataset(open_source(config.data, train=True), config.data, train=True, seed=seed)
    rank, world = accelerator.process_index, accelerator.num_processes
    return open_stream(config.data, True, rank, world, seed, endless=True)


def length_of(images: Any) -> int | None:
    """None for a stream."""
    return None if isinstance(images, IterableDataset) else len(images)


def held_out_images(config: Config, number: int | None = None) -> Any:
    """The test split, or its first images; those of a stream are kept in memory."""
    if config.data.streaming:
        return list(itertools.islice(open_stream(config.data, False), number))
    images = ImageDataset(open_source(config.data, train=False), config.data, train=False, seed=0)
    return images if number is None else First(images, number)


def picture_box(config: Config) -> tuple[int, int, int, int]:
    """Top, left, height and width of what is picture in an image, and not its margin."""
    if config.data.streaming:
        return 0, 0, config.data.height, config.data.width
    return content_box(config.data, open_source(config.data, train=False))


class DrawnImages(Dataset[dict[str, Any]]):
    """A folder of scripts/sample.py as a training set; the class stands in the name of an image's folder."""

    def __init__(self, folder: Path) -> None:
        given = f"classifier_training.drawn_images={folder}"
        try:
            self.images = ImageFolder(folder / "images" if (folder / "images").is_dir() else folder)
        except ValueError as error:
            raise ValueError(f"{given}: {error}") from error
        self.labels = [
            int(file.parent.name) if file.parent.name.isdecimal() else -1 for file in self.images.files
        ]
        if not self.labels or -1 in self.labels:
            raise ValueError(f"{given} was not drawn by scripts/sample.py: its folders are not class numbers")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        image_CHW = self.images[draw.index].float() / 127.5 - 1
        return {"image": image_CHW, "label": self.labels[draw.index], "draw_number": draw.draw_number}


class First(Dataset[Any]):
    """The first images of a set, addressed by number."""

    def __init__(self, dataset: Dataset[Any], number: int) -> None:
        self.dataset = dataset
        self.number = min(number, len(dataset))  # type: ignore[arg-type]

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]
