"""Opens what is diagnosed: a run, a saved model or pipeline, another library's checkpoint."""

from dataclasses import dataclass, replace
from pathlib import Path

from var_pe import settings
from var_pe.diagnosis.subject import Subject
from var_pe.interop.vit.conversion import convert
from var_pe.interop.vit.names import ViTWeights
from var_pe.models.classifier import Classifier
from var_pe.models.dense.detector import Detector
from var_pe.models.dense.encoder import DenseModel
from var_pe.models.dense.segmenter import Segmenter
from var_pe.models.folder import in_words, read_config
from var_pe.models.foreign_weights import read_state
from var_pe.models.generator import VARTransformer
from var_pe.models.hierarchy.clips import CLIP_CLASSIFIERS
from var_pe.models.tokenizer import VQTokenizer
from var_pe.models.vit import ViTClassifier
from var_pe.stages.config import Config
from var_pe.stages.models import CLASSIFIERS, find_tokenizer, load_classifier_of_images, load_model

# Models on a classifier's maps, whose encoder is looked at
ON_MAPS: dict[str, type[DenseModel]] = {"segmenter": Segmenter, "detector": Detector}

IN_STAGES = (
    "is a classifier in stages, each with positions of its own, and a diagnosis looks at those of one grid: "
    "take a plain ViT under the same encoding"
)


@dataclass(frozen=True)
class Checkpoint:
    """What another library's state dict does not show, so that the user has to give it."""

    # timm | torchvision | dinov2
    source: str
    # that the position table was made for, in pixels; None: the architecture's
    image_size: tuple[int, int] | None
    num_heads: int | None
    # timm's name, or a folder with its config.json; None for the other libraries
    architecture: str | Path | None = None


def open_subject(path: Path, checkpoint: Checkpoint | None = None) -> Subject:
    """A run's folder, a saved model's or pipeline's, or with `checkpoint` the file of another library.

    Raises:
        ValueError: the path is something else, a file is damaged, or the weights do not fit.
    """
    if path.is_file():
        if checkpoint is None:
            raise ValueError(
                f"{path} is a file of weights: give --source timm and --architecture, "
                f"or another --source, --image-size and --num-heads"
            )
        return of_checkpoint(path, checkpoint)

    if (path / "config.yaml").exists():
        return of_run(path)
    if (path / "model_index.json").exists():
        tokenizer = load_model(VQTokenizer, path / "tokenizer")
        return Subject(path.name, load_model(VARTransformer, path / "transformer"), tokenizer=tokenizer)

    if not (path / "config.json").exists():
        raise ValueError(f"{path} is neither a run, nor a saved model or pipeline, nor a file of weights")
    if read_config(path).get("_class_name") in (*CLASSIFIERS, *CLIP_CLASSIFIERS):
        return Subject(path.name, plain_classifier(path))
    return Subject(path.name, load_model(VARTransformer, path))


def of_run(folder: Path) -> Subject:
    """A run's classifier or encoder, also of a segmenter or detector, or its generator with the tokenizer."""
    config = settings.load(Config, folder / "config.yaml")
    for kind in ("classifier", "encoder"):
        if (folder / kind).is_dir():
            return Subject(folder.name, plain_classifier(folder / kind), config)
    for kind, cls in ON_MAPS.items():
        if (folder / kind).is_dir():
            return Subject(folder.name, plain(load_model(cls, folder / kind).encoder, folder / kind), config)

    model = load_model(VARTransformer, folder / "generator")
    tokenizer = find_tokenizer(replace(config, run=str(folder)))
    loaded = load_model(VQTokenizer, tokenizer) if (tokenizer / "config.json").exists() else None
    return Subject(folder.name, model, config, loaded)


def plain_classifier(folder: Path) -> ViTClassifier:
    """A classifier whose positions lie on one grid.

    Raises:
        ValueError: it has several.
    """
    return plain(load_classifier_of_images(folder), folder)


def plain(model: Classifier, folder: Path) -> ViTClassifier:
    if not isinstance(model, ViTClassifier):
        raise ValueError(f"{folder} {IN_STAGES}")
    return model


def of_checkpoint(path: Path, checkpoint: Checkpoint) -> Subject:
    """The file of another library, converted.

    Raises:
        ValueError: it holds no state dict of the library that was named.
    """
    state = read_state(path)
    try:
        weights = ViTWeights(state, checkpoint.source)
        model = convert(
            state,
            source=checkpoint.source,
            like=checkpoint.architecture,
            image_size=checkpoint.image_size,
            patch_size=patch_side(weights),
            num_heads=checkpoint.num_heads,
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error

    if not isinstance(model, ViTClassifier):
        raise ValueError(f"{path} {IN_STAGES}")
    table_1LC = weights.state.get(weights.theirs("pos_embed"))
    absolute_LC = None if table_1LC is None else table_1LC[0].float()
    return Subject(path.name, model, absolute_LC=absolute_LC)


def patch_side(weights: ViTWeights) -> int:
    """The side of a patch in pixels.

    Raises:
        ValueError: what is there in place of the patch kernel has not the shape of one.
    """
    name = weights.theirs("patch_embed.proj.weight")
    kernel = weights.state[name]
    if kernel.dim() != 4 or not kernel.numel():
        raise ValueError(f"{name} must be width x channels x side x side, it is {in_words(kernel.shape)}")
    return int(kernel.shape[-1])
