"""Feature extractors by name, the features of a set of images, and the scores that follow from them."""

from collections.abc import Sequence
from pathlib import Path

from accelerate import Accelerator

from var_pe.evaluation.classifier import ClassifierFeatures
from var_pe.evaluation.efficientnet_lite import SPATIAL, EfficientNetLiteFeatures, SpatialLiteFeatures
from var_pe.evaluation.extraction import ScoredImages, extract
from var_pe.evaluation.features import FeatureExtractor, FeatureSet
from var_pe.evaluation.inception import InceptionFeatures
from var_pe.evaluation.metrics import floor_of, scores
from var_pe.evaluation.shapes_reader import ShapeReader
from var_pe.evaluation.shapes_scores import shape_scores
from var_pe.models.efficientnet_lite import VARIANTS
from var_pe.processes import Processes
from var_pe.progress import Counter
from var_pe.stages.config import Config, saved_config
from var_pe.stages.models import load_classifier_of_images, weights_hash


def feature_extractor(name: str, inception_weights: str | None = None) -> FeatureExtractor:
    """The extractor called `inception`, `shapes` or as one of `VARIANTS`, or the classifier of a run.

    With `_spatial` behind it, one of `VARIANTS` keeps the places of what it sees.
    """
    if name == ShapeReader.name:
        return ShapeReader()
    if name == "inception":
        return InceptionFeatures(Path(inception_weights) if inception_weights else None)
    if name in VARIANTS:
        return EfficientNetLiteFeatures(name)
    if name.removesuffix(SPATIAL) in VARIANTS:
        return SpatialLiteFeatures(name.removesuffix(SPATIAL))
    if not (Path(name) / "classifier").is_dir():
        raise ValueError(
            f"features are inception, {', '.join(VARIANTS)} (each also with {SPATIAL}), shapes or the folder "
            f"of a classifier's run, got {name!r}"
        )

    folder = Path(name) / "classifier"
    return ClassifierFeatures(load_classifier_of_images(folder), Path(name).name, weights_hash(folder))


def trained_against(config: Config, name: str) -> bool:
    """Whether the extractor called `name` is, or has, a network that the tokenizer's losses looked through.

    Those of the tokenizers that it started from count, too, as far as their runs are there. Its scores
    flatter what such a tokenizer rebuilds, and what is drawn through it.
    """
    judge = name.removesuffix(SPATIAL)
    for network in looked_through(config):
        by_name = network in VARIANTS or judge in VARIANTS
        if network == judge or (not by_name and Path(network).resolve() == Path(judge).resolve()):
            return True
    return False


def looked_through(config: Config) -> list[str]:
    """The networks of the losses of the tokenizer and of those that it started from, the last one first."""
    found: list[str] = []
    read: set[str] = set()
    while True:
        found += config.tokenizer_training.looks_through

        # Two runs cannot have started from each other, but folders that were moved may say so.
        before = config.tokenizer_init_from
        if before is None or before in read or not (Path(before) / "config.yaml").exists():
            return found
        read.add(before)
        config = saved_config(Path(before) / "config.yaml")


def flattering(config: Config, names: Sequence[str]) -> list[str]:
    """A sentence for each extractor of these that the tokenizer was trained against."""
    return [
        f"{name} flatters these pictures, since the tokenizer was trained against its network "
        f"(tokenizer_training.perceptual.network): score with --features of another one, too"
        for name in names
        if trained_against(config, name)
    ]


def judges(config: Config) -> list[str]:
    """`evaluation.features`; for coloured pictures of data.source=shapes the reader of shapes comes first."""
    features = config.evaluation.features
    if config.data.source != "shapes" or config.data.channels != 3:
        return list(features)
    return list(dict.fromkeys([ShapeReader.name, *features]))


def described(extractor: FeatureExtractor, images: ScoredImages, accelerator: Accelerator) -> FeatureSet:
    """The features of all images in order; each process computes its share."""
    processes = Processes.of(accelerator)
    what = f"features of {extractor.name}"
    with Counter(len(images), what, shown=processes.is_main, processes=processes.world) as counter:
        return extract(extractor, images, batch_size=128, processes=processes, on_progress=counter.add)


def compared(
    extractor: FeatureExtractor, ours: FeatureSet, theirs: FeatureSet, class_names: Sequence[str]
) -> dict[str, float]:
    """The scores of images against others; a reader of shapes scores the first images by themselves."""
    if isinstance(extractor, ShapeReader):
        return shape_scores(ours, class_names)
    return scores(ours, theirs, extractor=extractor)


def floor(
    extractor: FeatureExtractor, first: FeatureSet, second: FeatureSet, class_names: Sequence[str]
) -> dict[str, float]:
    """The same of real images against other real ones."""
    if isinstance(extractor, ShapeReader):
        return {"count": len(first), **shape_scores(first, class_names)}
    return floor_of(first, second, extractor=extractor)


def recognised(extractor: FeatureExtractor, ours: FeatureSet, theirs: FeatureSet) -> dict[str, float]:
    """Top-1 of a classifier on drawn images and on those of the reference that have features.

    Nothing for other extractors or without labels.
    """
    if not isinstance(extractor, ClassifierFeatures) or int(ours.labels_N.min()) < 0:
        return {}
    return {
        f"accuracy_generated_{extractor.name}": top1(ours),
        f"accuracy_reference_{extractor.name}": top1(theirs),
    }


def top1(features: FeatureSet) -> float:
    """How often the most probable class is the right one."""
    return float((features.logits_NV.argmax(1) == features.labels_N).float().mean())
