"""The models of a run: built anew, loaded, or started from the weights of another run."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar, cast

import torch
from torch import nn

from var_pe import settings
from var_pe.files import hash_of_files
from var_pe.interop.lpips import load_lpips
from var_pe.models.discriminators import FeatureDiscriminator, PatchDiscriminator, halvings_for
from var_pe.models.efficientnet_lite import VARIANTS
from var_pe.models.feature_stages import ClassifierStages, FeatureStages, LiteStages
from var_pe.models.folder import SavedModel, check_folder, read_config
from var_pe.models.generator import VARTransformer
from var_pe.models.tokenizer import VQTokenizer
from var_pe.models.transfer import start_from, start_tokenizer_from
from var_pe.models.vit import ViTClassifier
from var_pe.models.weight_files import stored, weight_files
from var_pe.pyramid import Grid
from var_pe.resampling.grid_bound import GridBound
from var_pe.stages.config import Config
from var_pe.training.history import Start
from var_pe.training.notes import TrainingNotes

M = TypeVar("M", bound=SavedModel)


def build_tokenizer(config: Config) -> VQTokenizer:
    """A new tokenizer, for images of the config's size.

    Raises:
        ValueError: the finest level times the downsampling factor is not the size of the images.
    """
    model = VQTokenizer(
        **asdict(config.tokenizer), image_channels=config.data.channels, seed=config.tokenizer_seed
    )

    rows, columns = (side * model.downsampling for side in model.pyramid.finest)
    if (rows, columns) != (config.data.height, config.data.width):
        raise ValueError(
            f"tokenizer.levels ends at {model.pyramid.finest}, which at {model.downsampling}x downsampling "
            f"means images of {rows}x{columns}, but data.height and data.width say "
            f"{config.data.height}x{config.data.width}"
        )
    return model


def build_generator(
    config: Config, num_classes: int, *, kept_grids: Sequence[Grid] | None = None
) -> VARTransformer:
    """A new generator; `kept_grids` are those of the model that it will go on from (`Start`)."""
    return VARTransformer(
        **asdict(config.generator),
        levels=config.tokenizer.levels,
        codebook_size=config.tokenizer.num_codes,
        latent_channels=config.tokenizer.latent_channels,
        num_classes=num_classes,
        seed=config.seed,
        kept_grids=kept_grids,
    )


def build_classifier(
    config: Config, num_classes: int, *, kept_grids: Sequence[Grid] | None = None
) -> ViTClassifier:
    """A new classifier; `kept_grids` are those of the model that it will go on from (`Start`)."""
    assert config.classifier is not None
    return ViTClassifier(
        **asdict(config.classifier),
        image_size=(config.data.height, config.data.width),
        image_channels=config.data.channels,
        num_classes=num_classes,
        seed=config.seed,
        kept_grids=kept_grids,
    )


def feature_network(config: Config) -> FeatureStages | None:
    """The frozen network that the tokenizer's losses look through; None if none does.

    Raises:
        ValueError: its weights are not there, or do not fit the pictures.
    """
    training = config.tokenizer_training
    perceptual, adversarial = training.perceptual, training.adversarial
    of_discriminator = adversarial.weight > 0 and adversarial.discriminator == "features"
    if not perceptual.weight and not of_discriminator:
        return None

    name = perceptual.network
    if name in VARIANTS:
        return LiteStages(name)
    if name == "vgg16":
        backbone, heads = (
            Path(file) if file else None for file in (perceptual.vgg16_weights, perceptual.lpips_weights)
        )
        return load_lpips(backbone, heads)

    if not (Path(name) / "classifier").is_dir():
        raise ValueError(
            f"tokenizer_training.perceptual.network is {', '.join(VARIANTS)}, vgg16 or the folder of a "
            f"classifier's run, got {name!r}"
        )
    classifier = load_model(ViTClassifier, Path(name) / "classifier")
    return ClassifierStages(classifier, Path(name).name, config.data.channels)


def build_discriminator(config: Config, network: FeatureStages | None) -> nn.Module | None:
    """A new discriminator, of patches or of what `network` sees; None if the config wants none.

    Raises:
        ValueError: the pictures are too small for patches.
    """
    adversarial, seed = config.tokenizer_training.adversarial, config.tokenizer_seed
    if not adversarial.weight:
        return None

    spectral = adversarial.spectral_norm
    if adversarial.discriminator == "features":
        assert network is not None, "feature_network gives one"
        return FeatureDiscriminator(network.channels, adversarial.channels, spectral=spectral, seed=seed)

    halvings = halvings_for(config.data.height, config.data.width)
    return PatchDiscriminator(
        config.data.channels, adversarial.channels, halvings, spectral=spectral, seed=seed
    )


def start_tokenizer(config: Config, model: VQTokenizer) -> Start | None:
    """Gives `model` the weights of the trained tokenizer that the config names, if it names one.

    For a model on the meta device only what the headers tell is checked.

    Raises:
        ValueError: it does not exist, or differs in more than levels and the number of codes.
    """
    if config.tokenizer_init_from is None:
        return None

    folder = Path(config.tokenizer_init_from) / "tokenizer"
    read = described_model if model.device.type == "meta" else load_model
    try:
        source = read(VQTokenizer, folder)
    except ValueError as error:
        raise ValueError(f"tokenizer_init_from={config.tokenizer_init_from}: {error}") from error

    moved, codes = start_tokenizer_from(model, source)
    step, weights = TrainingNotes.read(folder).step, _weights_read(model, folder)
    return Start(config.tokenizer_init_from, step, weights, moved, codes=codes)


def initialise_from(
    config: Config, model: VARTransformer | ViTClassifier, class_names: Sequence[str] | None = None
) -> Start | None:
    """Gives `model` the weights of the trained run that the config names, if it names one.

    A model on the meta device has no weights to give: whether it could have them is found out from the run's
    config.json and the headers of its weight files.

    Raises:
        ValueError: the run does not exist, has another kind of model, or its generator knows other codes.
    """
    if config.model.init_from is None:
        return None

    run = Path(config.model.init_from)
    kind = "generator" if isinstance(model, VARTransformer) else "classifier"
    read = described_model if model.device.type == "meta" else load_model
    try:
        source = read(type(model), run / kind)
    except ValueError as error:
        raise ValueError(f"model.init_from={run}: {error}") from error
    if isinstance(model, VARTransformer):
        _check_codes(config, run)

    # Without names of both models' classes, their number decides.
    notes = TrainingNotes.read(run / kind)
    trained = notes.class_names
    same_classes = not trained or not class_names or trained == tuple(class_names)
    moved = start_from(model, source, config.model.resample, same_classes=same_classes)

    kept: list[Grid] | None = model.config["kept_grids"]
    weights = _weights_read(model, run / kind)
    return Start(config.model.init_from, notes.step, weights, moved, kept)


def _weights_read(model: SavedModel, folder: Path) -> str | None:
    """The hash of the weights that `model` was given; nothing is read for one on the meta device."""
    return None if model.device.type == "meta" else weights_hash(folder)


def _check_codes(config: Config, run: Path) -> None:
    """Checks that a generator's run used this config's tokenizer: under another, tokens mean other codes.

    Nothing is checked if one of the two tokenizers does not exist here.

    Raises:
        ValueError: the run used another tokenizer.
    """
    ours = Path(config.tokenizer_run) / "tokenizer"
    learned = TrainingNotes.read(run / "generator").tokenizer
    if learned is not None and ours.exists():
        if learned != weights_hash(ours):
            raise ValueError(
                f"model.init_from={run} learned the codes of another tokenizer than "
                f"{config.tokenizer_run} holds"
            )
        return
    if not (run / "config.yaml").exists():
        return

    theirs = settings.load(Config, run / "config.yaml").tokenizer_run
    folders = [Path(folder) / "tokenizer" for folder in (theirs, config.tokenizer_run)]
    if all(folder.exists() for folder in folders) and len(set(map(weights_hash, folders))) > 1:
        raise ValueError(
            f"model.init_from={run} was trained on the codes of {theirs}, "
            f"not on those of {config.tokenizer_run}"
        )


def load_model(cls: type[M], folder: Path) -> M:
    """A model from its diffusers folder, on the CPU, in evaluation mode.

    Raises:
        ValueError: the folder is missing or damaged, holds another kind of model, or its weights do not fit.
    """
    _check_trained(cls, folder)
    try:
        return cls.from_pretrained(folder, local_files_only=True).eval()
    except ValueError as error:  # a table that is stored for other grids
        raise ValueError(f"{folder}: {error}") from error


def described_model(cls: type[M], folder: Path) -> M:
    """The model that `load_model` would load, on the meta device: its shapes without its weights.

    Raises:
        ValueError: as in `load_model`, as far as the headers of the weight files tell.
    """
    _check_trained(cls, folder)
    with torch.device("meta"):
        model = cast(M, cls.from_config(read_config(folder))).eval()

    # Tables are stored beside the grids that they were made for.
    for file in weight_files(folder):
        _, grids = stored(file)
        for name, stored_K2 in grids.items():
            table = model.get_submodule(name.rpartition(".")[0])
            assert isinstance(table, GridBound)
            table.check_grids(stored_K2)
    return model


def _check_trained(cls: type[SavedModel], folder: Path) -> None:
    """Checks that a folder holds a whole trained model of this class, without reading its weights."""
    if not (folder / "config.json").exists():
        others = sorted(path.parent.name for path in folder.parent.glob("*/config.json"))
        hint = "train it first (scripts/train.py)"
        if others:
            hint = f"{folder.parent} has a {' and a '.join(others)}"
        raise ValueError(f"{folder} holds no trained model; {hint}")

    check_folder(cls, folder)


def load_tokenizer(config: Config) -> VQTokenizer:
    """The trained tokenizer that the config names.

    Raises:
        ValueError: it is not there.
    """
    folder = find_tokenizer(config)
    if not folder.exists() and not os.path.isabs(config.tokenizer_run):
        raise ValueError(
            f"tokenizer_run={config.tokenizer_run} holds no trained tokenizer, seen from the working folder "
            f"{Path.cwd()} or from where the run is now: give tokenizer_run=FOLDER, or train it first "
            f"(scripts/train.py)"
        )
    return load_model(VQTokenizer, folder)


def find_tokenizer(config: Config) -> Path:
    """The folder of the config's trained tokenizer, also if it was moved together with the run.

    A relative path counts from the working folder. If nothing is there, the tokenizer lies where it lay as
    seen from the run's folder when the run was made.
    """
    folder, own = Path(config.tokenizer_run), Path(config.run) / "config.yaml"
    if not (folder / "tokenizer").exists() and own.exists():
        made = settings.load(Config, own)
        alike = os.path.isabs(made.run) == os.path.isabs(made.tokenizer_run)
        if alike and made.tokenizer_run == config.tokenizer_run:
            way = os.path.relpath(made.tokenizer_run, made.run)
            moved = Path(os.path.normpath(Path(config.run).absolute() / way))
            if (moved / "tokenizer").exists():
                return moved / "tokenizer"
    return folder / "tokenizer"


def weights_hash(folder: Path) -> str:
    """SHA-256 of the weight files in a diffusers folder."""
    return hash_of_files(*sorted(folder.glob("*.safetensors")))
