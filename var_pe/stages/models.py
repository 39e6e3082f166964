"""The models of a run: built anew, found, loaded."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar, cast

import torch
from torch import nn

from var_pe import settings
from var_pe.data.hidden_patches import number_hidden
from var_pe.files import hash_of_files
from var_pe.interop.lpips import load_lpips
from var_pe.models.clips import ClipClassifier
from var_pe.models.dense.detector import Detector
from var_pe.models.dense.encoder import CLASSIFIERS, described
from var_pe.models.dense.segmenter import Segmenter
from var_pe.models.discriminators import FeatureDiscriminator, PatchDiscriminator, halvings_for
from var_pe.models.efficientnet_lite import VARIANTS
from var_pe.models.feature_stages import (
    ClassifierStages,
    FeatureStages,
    HierarchyStages,
    LiteStages,
    StagesOfSeveral,
)
from var_pe.models.folder import SavedModel, check_folder, read_config
from var_pe.models.generator import VARTransformer
from var_pe.models.hierarchy.classifier import HierarchicalClassifier
from var_pe.models.hierarchy.clips import CLIP_CLASSIFIERS, HierarchicalClipClassifier
from var_pe.models.pretraining import Contrast, HiddenPixels, HiddenTokens
from var_pe.models.tokenizer import VQTokenizer
from var_pe.models.vit import OF_CLIPS, PLAIN, ViTClassifier
from var_pe.models.weight_files import stored, weight_files
from var_pe.pyramid import Grid
from var_pe.resampling.grid_bound import GridBound
from var_pe.stages.config import Config, rules_of
from var_pe.stages.pyramids import tokenizer_pyramids
from var_pe.training.checkpoints import steps_in
from var_pe.training.history import History

M = TypeVar("M", bound=SavedModel)
AnyClassifier = ViTClassifier | HierarchicalClassifier | ClipClassifier | HierarchicalClipClassifier


def build_tokenizer(config: Config) -> VQTokenizer:
    """A new tokenizer, for images of the config's size.

    Raises:
        ValueError: the finest level times the downsampling factor is not the size of the images.
    """
    model = VQTokenizer(
        **asdict(config.tokenizer), image_channels=config.data.channels, seed=config.tokenizer_seed
    )

    rows, columns = model.image_size(model.pyramid)
    if (rows, columns) != (config.data.height, config.data.width):
        raise ValueError(
            f"tokenizer.levels ends at {model.pyramid.finest}, which at {model.downsampling}x downsampling "
            "(by tokenizer.patch and tokenizer.channel_multipliers) means images of "
            f"{rows}x{columns}, but data.height and data.width say {config.data.height}x{config.data.width}"
        )
    return model


def build_generator(
    config: Config, num_classes: int, *, kept_grids: Sequence[Grid] | None = None
) -> VARTransformer:
    """A new generator; `kept_grids` are those of the model that it will go on from (`Start`).

    Raises:
        ValueError: its encoding does not exist or does not fit the model.
    """
    with rules_of("generator"):
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
) -> AnyClassifier:
    """A new classifier; `kept_grids` are those of the model that it will go on from (`Start`).

    Raises:
        ValueError: its encoding does not exist, or a setting does not fit the model or the images.
    """
    assert config.classifier is not None
    settings_of_model = asdict(config.classifier)
    cls: type[AnyClassifier] = ViTClassifier
    unused: tuple[str, ...] = ("hierarchy", *OF_CLIPS)
    if config.classifier.hierarchy:
        cls, unused = HierarchicalClassifier, ("depth", *PLAIN, *OF_CLIPS)
    if config.classifier.tubelet is not None:
        cls, unused = ClipClassifier, ("hierarchy", "prompts", "padding")
        if config.classifier.hierarchy:
            cls, unused = HierarchicalClipClassifier, ("depth", "attention", *PLAIN)
        settings_of_model["frames"] = config.data.frames
    for name in unused:
        del settings_of_model[name]
    with rules_of("classifier"):
        return cls(
            **settings_of_model,
            image_size=(config.data.height, config.data.width),
            image_channels=config.data.channels,
            num_classes=num_classes,
            seed=config.seed,
            kept_grids=kept_grids,
        )


def build_pretrained(
    config: Config, levels: VQTokenizer | None = None, *, kept_grids: Sequence[Grid] | None = None
) -> HiddenPixels | HiddenTokens | Contrast:
    """A new encoder with what it is trained with; `levels` is the tokenizer whose tokens it learns, if any.

    Raises:
        ValueError: a setting does not fit the encoder, or the tokenizer's levels its patches.
    """
    assert config.encoder is not None
    encoder = build_classifier(config, 0, kept_grids=kept_grids)
    assert isinstance(encoder, ViTClassifier), "the config has been checked"
    with rules_of("encoder"):
        if config.encoder.method == "contrast":
            return Contrast(encoder, config.encoder, config.seed)

        grid = encoder.pyramid.finest
        hidden = number_hidden(grid, config.encoder.share, config.encoder.hidden_block)
        if config.encoder.method == "pixels":
            return HiddenPixels(encoder, config.encoder, hidden, config.seed)
        assert levels is not None, "whoever wants tokens has a tokenizer"
        codes = levels.quantizer.num_codes
        return HiddenTokens(encoder, hidden, levels.pyramid, codes, config.seed)


def build_segmenter(
    config: Config, num_classes: int, *, kept_grids: Sequence[Grid] | None = None
) -> Segmenter:
    """A new segmenter of so many classes of pixels, on a new encoder; `kept_grids` as in `build_classifier`.

    Raises:
        ValueError: a setting does not fit the encoder.
    """
    assert config.segmenter is not None
    encoder = build_classifier(config, 0, kept_grids=kept_grids)
    with rules_of("segmenter"):
        return Segmenter(described(encoder), num_classes, **asdict(config.segmenter), seed=config.seed)


def build_detector(config: Config, num_classes: int, *, kept_grids: Sequence[Grid] | None = None) -> Detector:
    """A new detector of so many classes of boxes; as `build_segmenter`.

    Raises:
        ValueError: a setting does not fit the encoder.
    """
    assert config.detector is not None
    encoder = build_classifier(config, 0, kept_grids=kept_grids)
    with rules_of("detector"):
        return Detector(described(encoder), num_classes, **asdict(config.detector), seed=config.seed)


def feature_network(config: Config) -> FeatureStages | None:
    """The frozen network, or several as one, that the tokenizer's losses look through; None if none does.

    Raises:
        ValueError: weights are not there, or do not fit the pictures.
    """
    networks = [_feature_network(config, name) for name in config.tokenizer_training.looks_through]
    return StagesOfSeveral(networks) if len(networks) > 1 else next(iter(networks), None)


def _feature_network(config: Config, name: str) -> FeatureStages:
    perceptual = config.tokenizer_training.perceptual
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
    classifier = load_classifier_of_images(Path(name) / "classifier")
    if isinstance(classifier, ViTClassifier):
        return ClassifierStages(classifier, Path(name).name, config.data.channels)
    assert isinstance(classifier, HierarchicalClassifier), "there is no third kind"
    return HierarchyStages(classifier, Path(name).name, config.data.channels)


def build_discriminator(config: Config, network: FeatureStages | None) -> nn.Module | None:
    """A new discriminator, of patches or of what `network` sees; None if the config wants none.

    Its patches are less than the smallest pictures of the training.

    Raises:
        ValueError: these are too small for patches, `network` lacks the second derivatives that R1 needs, or
            there is no other term whose gradient the adaptive weight could follow.
    """
    training, seed = config.tokenizer_training, config.tokenizer_seed
    adversarial = training.adversarial
    if not adversarial.weight:
        return None
    if adversarial.adaptive_limit and not (training.l1 or training.l2 or training.perceptual.weight):
        raise ValueError(
            f"tokenizer_training.adversarial.adaptive_limit={adversarial.adaptive_limit:g} weighs the term "
            "by the gradient of the others, but l1, l2 and perceptual.weight are all 0: give one of them a "
            "weight, or set it to 0"
        )

    spectral = adversarial.spectral_norm
    if adversarial.discriminator == "features":
        assert network is not None, "feature_network gives one"
        if adversarial.r1 and not network.twice_differentiable:
            raise ValueError(
                f"tokenizer_training.adversarial.r1={adversarial.r1:g} needs second derivatives, and the "
                f"classifier {network.name} has none: set it to 0 (lecam is another way), or take "
                f"discriminator=patch or another perceptual.network"
            )
        return FeatureDiscriminator(network.channels, adversarial.channels, spectral=spectral, seed=seed)

    smallest = min(min(pyramid.finest) for pyramid in tokenizer_pyramids(config))
    side = config.tokenizer.downsampling * smallest
    halvings = halvings_for(side, side)
    return PatchDiscriminator(
        config.data.channels, adversarial.channels, halvings, spectral=spectral, seed=seed
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


def load_classifier(folder: Path) -> AnyClassifier:
    """`load_model` of a classifier of any kind, as its config.json says.

    Raises:
        ValueError: as there.
    """
    there = (folder / "config.json").exists()
    named = read_config(folder).get("_class_name") if there else None
    if named in CLIP_CLASSIFIERS:
        return load_model(CLIP_CLASSIFIERS[named], folder)
    return load_model(CLASSIFIERS.get(str(named), ViTClassifier), folder)


def load_classifier_of_images(folder: Path) -> ViTClassifier | HierarchicalClassifier:
    """`load_classifier` where images are to be looked at.

    Raises:
        ValueError: as there, or it is a classifier of clips.
    """
    classifier = load_classifier(folder)
    if not isinstance(classifier, ViTClassifier | HierarchicalClassifier):
        raise ValueError(f"{folder} holds a classifier of clips, which cannot take single images")
    return classifier


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
        raise ValueError(f"{folder} holds no trained model; {instead_of(folder)}")

    check_folder(cls, folder)


def instead_of(folder: Path) -> str:
    """What a run has in place of a missing model: others, an unfinished training, or nothing."""
    run = folder.parent
    others = sorted(path.parent.name for path in run.glob("*/config.json"))
    if others:
        return f"trained in {run}: {', '.join(others)}"
    return unfinished(run) or "train it first (scripts/train.py)"


def unfinished(run: Path) -> str | None:
    """How far the training in a run without a model has come, and how it goes on; None if there is none."""
    history = History.read(run)
    if history is None:
        return None

    saved = steps_in(run / "checkpoints")
    last = "it has no checkpoint"
    if saved:
        last = f"its last checkpoint is of step {saved[-1]} of {history.steps}"
    return (
        f"the training in {run} has not finished ({last}): to go on, run the scripts/train.py command that "
        "began it again"
    )


def load_tokenizer(config: Config) -> VQTokenizer:
    """The trained tokenizer that the config names.

    Raises:
        ValueError: it is not there.
    """
    folder = find_tokenizer(config)
    if not folder.exists() and not os.path.isabs(config.tokenizer_run):
        raise ValueError(
            f"tokenizer_run={config.tokenizer_run} holds no trained tokenizer, neither from the working "
            f"folder {Path.cwd()} nor from the run's folder: give tokenizer_run=FOLDER, or train it first "
            "(scripts/train.py)"
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
