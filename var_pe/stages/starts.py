"""Trainings that start from the weights of another run, which may be of another size or have other codes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from var_pe import settings
from var_pe.encodings import build_encoding
from var_pe.models.classifier import Classifier
from var_pe.models.dense.encoder import CLASSIFIERS, DenseModel
from var_pe.models.folder import SavedModel, read_config
from var_pe.models.generator import VARTransformer
from var_pe.models.tokenizer import VQTokenizer
from var_pe.models.transfer import blend_in, start_from, start_tokenizer_from
from var_pe.pyramid import Grid
from var_pe.stages.config import Config, Kind
from var_pe.stages.models import described_model, load_model, weights_hash
from var_pe.training.history import Start
from var_pe.training.notes import TrainingNotes


def start_tokenizer(config: Config, model: VQTokenizer) -> Start | None:
    """Gives `model` the weights of the trained tokenizer that the config names, if it names one.

    For a model on the meta device, only the headers of the weight files are checked.

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


def check_codes_are_kept(start: Start | None, model: VQTokenizer) -> None:
    """Checks that all codes of a tokenizer whose decoder alone is trained are trained ones.

    Raises:
        ValueError: it has more codes than the tokenizer that it starts from.
    """
    trained = start.codes if start else 0
    if trained < model.quantizer.num_codes:
        raise ValueError(
            f"tokenizer_training.tuned=decoder trains no codes, but tokenizer.codebook_size="
            f"{model.quantizer.num_codes} is more than the {trained} of tokenizer_init_from"
        )


def initialise_from(
    config: Config, model: VARTransformer | Classifier, class_names: Sequence[str] | None = None
) -> Start | None:
    """Gives `model` the weights of the trained run that the config names, if it names one.

    A model on the meta device gets no weights: the run's config.json and the headers of its weight files are
    checked for whether they would fit.

    Raises:
        ValueError: the run does not exist, has another kind of model, or its generator knows other codes.
    """
    if config.model.init_from is None:
        return None

    run = Path(config.model.init_from)
    kind: Kind = "generator" if isinstance(model, VARTransformer) else "classifier"
    read = described_model if model.device.type == "meta" else load_model
    folder = trained_folder(run, kind)
    try:
        source = read(type(model), folder)
    except ValueError as error:
        raise ValueError(f"model.init_from={run}: {error}") from error
    if isinstance(model, VARTransformer):
        _check_codes(config, run)

    # Without names of both models' classes, their number decides.
    notes = TrainingNotes.read(folder)
    trained = notes.class_names
    same_classes = not trained or not class_names or trained == tuple(class_names)
    retrofit = config.model.retrofit is not None
    moved = start_from(model, source, config.model.resample, same_classes=same_classes, retrofit=retrofit)

    kept: list[Grid] | None = (source if retrofit else model).config["kept_grids"]
    old = source.config["encoding"] if retrofit else None
    weights = _weights_read(model, folder)
    return Start(config.model.init_from, notes.step, weights, moved, kept, old_encoding=old)


def start_encoder(config: Config, model: DenseModel) -> Start | None:
    """Gives the encoder of `model` the weights of the trained classifier that the config names, if it does.

    Raises:
        ValueError: the run does not exist or has no such classifier.
    """
    start = initialise_from(config, model.encoder, ())
    if start is None:
        return None
    model.describe_encoder()
    return replace(start, moved=["all weights of the encoder", *start.moved[1:]])


def trained_folder(run: Path, kind: Kind) -> Path:
    """Where a run's model of this kind lies; also that of a saved pipeline, and a model's folder itself.

    An encoder is a classifier without classes.
    """
    candidates = [run / kind, run / "transformer", run]
    for folder in candidates if kind == "generator" else [run / kind, run / "encoder", run]:
        if (folder / "config.json").exists():
            return folder
    return run / kind


def is_classifier(run: Path) -> bool:
    """Whether a run's folder, or a model's, is that of a classifier."""
    folder = trained_folder(run, "classifier")
    return (folder / "config.json").exists() and read_config(folder).get("_class_name") in CLASSIFIERS


def blend_again(model: VARTransformer | Classifier, start: Start) -> None:
    """Gives a model that goes on with a retrofit the encoding that fades out, without its weights."""
    if start.old_encoding is not None:
        old = build_encoding(
            start.old_encoding,
            dim=model.config["dim"],
            num_heads=model.config["num_heads"],
            depth=model.config["depth"],
            pyramid=model.pyramid,
            kept_grids=start.kept_grids,
        )
        blend_in(model, old.to(model.device), start.old_encoding)


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
