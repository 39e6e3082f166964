"""All settings of a run: the sections, each defined beside the code that it configures, put together."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import field, fields, replace
from pathlib import Path
from typing import Annotated, Literal

from var_pe import settings
from var_pe.data.sources import OF_CLIPS, DataConfig
from var_pe.encodings import as_saved, settled
from var_pe.evaluation.features import EvaluationConfig
from var_pe.models.dense.detector import DetectorConfig
from var_pe.models.dense.segmenter import SegmenterConfig
from var_pe.models.generator import GeneratorConfig
from var_pe.models.patches import patches_of
from var_pe.models.pretraining import EncoderConfig
from var_pe.models.quantizers import expects
from var_pe.models.size import (
    refuse_oversized,
    size_of_classifier,
    size_of_detector,
    size_of_discriminator,
    size_of_encoder,
    size_of_generator,
    size_of_segmenter,
    size_of_tokenizer,
)
from var_pe.models.tokenizer import TokenizerConfig
from var_pe.models.transfer import ModelStart
from var_pe.models.vit import ClassifierConfig
from var_pe.pyramid import MOST_TOKENS, Pyramid
from var_pe.sampling.config import SamplingConfig
from var_pe.settings.fields import CHANGES_NO_WEIGHTS, Doc, FilePath, NonNegative, section
from var_pe.stages.accelerate_options import device_asked_for
from var_pe.tasks.classifier import ClassifierTraining
from var_pe.tasks.dense import DenseTraining
from var_pe.tasks.generator import GeneratorTraining
from var_pe.tasks.tokenizer import TokenizerTraining
from var_pe.training.config import TrainingConfig
from var_pe.training.precision import Precision
from var_pe.training.precision import settled as precision_on

# What a config trains: one model alone, or a tokenizer and a generator on it, or an encoder that learns its
# tokens
Kind = Literal["tokenizer", "generator", "classifier", "encoder", "segmenter", "detector"]


@section
class Config:
    run: Annotated[FilePath, Doc("folder of this run"), CHANGES_NO_WEIGHTS]
    tokenizer_run: Annotated[
        FilePath,
        Doc("folder of the tokenizer, shared by all encodings of a data set; trained if it does not exist"),
    ]
    seed: Annotated[
        NonNegative, Doc("seed of the generator or classifier: weights, order, augmentation, label drop")
    ] = 0
    tokenizer_seed: Annotated[NonNegative, Doc("seed of the tokenizer")] = 0
    tokenizer_init_from: Annotated[
        FilePath | None,
        Doc(
            "folder of a trained tokenizer whose weights the training starts from; levels and number of "
            "codes may differ"
        ),
    ] = None
    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    tokenizer_training: TokenizerTraining = field(default_factory=TokenizerTraining)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    generator_training: GeneratorTraining = field(default_factory=GeneratorTraining)
    model: ModelStart = field(default_factory=ModelStart)
    classifier: Annotated[
        ClassifierConfig | None,
        Doc(
            "if given, the run trains a ViT classifier in place of a generator, or the encoder, "
            "segmenter or detector below"
        ),
    ] = None
    classifier_training: ClassifierTraining = field(default_factory=ClassifierTraining)
    encoder: Annotated[
        EncoderConfig | None,
        Doc("if given, the run pretrains the classifier's encoder, without labels"),
    ] = None
    encoder_training: TrainingConfig = field(default_factory=TrainingConfig)
    segmenter: Annotated[
        SegmenterConfig | None,
        Doc("if given, the run trains a segmenter, whose encoder is the classifier"),
    ] = None
    segmenter_training: DenseTraining = field(default_factory=DenseTraining)
    detector: Annotated[
        DetectorConfig | None,
        Doc("if given, the run trains a detector of boxes, whose encoder is the classifier"),
    ] = None
    detector_training: DenseTraining = field(default_factory=DenseTraining)
    sampling: Annotated[SamplingConfig, CHANGES_NO_WEIGHTS] = field(default_factory=SamplingConfig)
    evaluation: Annotated[EvaluationConfig, CHANGES_NO_WEIGHTS] = field(default_factory=EvaluationConfig)

    @property
    def kind(self) -> Kind:
        """The model that a run of this config ends with."""
        if self.encoder is not None:
            return "encoder"
        if self.segmenter is not None:
            return "segmenter"
        if self.detector is not None:
            return "detector"
        return "generator" if self.classifier is None else "classifier"

    def __post_init__(self) -> None:
        """Refuses what cannot be trained, before a model is built: sections that do not fit, sizes."""
        for name in ("generator", "classifier"):
            model: GeneratorConfig | ClassifierConfig | None = getattr(self, name)
            if model is not None and model.dim % model.num_heads:
                raise ValueError(
                    f"{name}.dim must be a multiple of {name}.num_heads, got "
                    f"{model.dim} and {model.num_heads}"
                )
        if self.segmenter is not None and self.detector is not None:
            raise ValueError("a run trains a segmenter or a detector, but the config has both sections")

        self._check_clips()
        self._check_encoder()
        self._check_tuned()
        if self.kind in ("segmenter", "detector"):
            self._check_dense(self.kind)

        kind = "generator" if self.classifier is None else "classifier"
        training = self.generator_training if self.classifier is None else self.classifier_training
        if self.model.retrofit is not None and self.classifier is not None and self.classifier.hierarchy:
            raise ValueError(
                "model.retrofit replaces the encoding of one grid; a classifier.hierarchy has several"
            )
        if self.model.retrofit is not None and (training.keep, training.patience) != ("last", 0):
            raise ValueError(
                f"{kind}_training.keep={training.keep} and {kind}_training.patience={training.patience} "
                "may keep weights from before the old encoding has faded out: model.retrofit needs "
                "keep=last and patience=0"
            )

        in_stages = self.classifier is not None and bool(self.classifier.hierarchy)
        if training.contrastive is not None and in_stages:
            raise ValueError(
                "classifier_training.contrastive compares tokens of one grid; a classifier.hierarchy has "
                "several"
            )
        padded = self.classifier is not None and self.classifier.padding != "none"
        if training.contrastive is not None and padded:
            raise ValueError(
                "classifier_training.contrastive compares places in pictures of whole patches: leave "
                "classifier.padding at none"
            )
        depth = self.generator.depth if self.classifier is None else self.classifier.depth
        if training.contrastive is not None and training.contrastive.layer > depth:
            raise ValueError(
                f"{kind}_training.contrastive.layer must be at most {depth}, the depth of the {kind}, got "
                f"{training.contrastive.layer}"
            )

        picture = self.tokenizer_training
        weights = (picture.l1, picture.l2, picture.perceptual.weight, picture.adversarial.weight)
        if not any(weights):
            raise ValueError(
                "tokenizer_training.l1, l2, perceptual.weight and adversarial.weight are all 0, so nothing "
                "would train the decoder: give one of them a weight"
            )
        if self.tokenizer_training.tuned == "decoder" and self.tokenizer_init_from is None:
            raise ValueError(
                "tokenizer_training.tuned=decoder leaves encoder and codes as they are, so they must come "
                "from a trained tokenizer: set tokenizer_init_from"
            )
        share = self.tokenizer_training.redrawn.share
        if share and not expects(self.tokenizer.quantizer):
            raise ValueError(
                f"tokenizer_training.redrawn.share={share} draws tokens by what the coarser levels let one "
                "expect, which vq(rate=..., given=coarser) learns, but tokenizer.quantizer is "
                f"{self.tokenizer.quantizer}"
            )

        self._check_sizes()

    def _check_clips(self) -> None:
        """Refuses clips for a model of pictures and the reverse, and settings that need pictures."""
        source = self.data.source
        tubelet = None if self.classifier is None else self.classifier.tubelet
        if tubelet is None:
            if source in OF_CLIPS:
                raise ValueError(
                    f"data.source={source} has clips, which need a classifier with classifier.tubelet, as "
                    "in moving_shapes.yaml"
                )
            return
        if source not in OF_CLIPS:
            raise ValueError(
                f"classifier.tubelet={tubelet} takes clips, which {' and '.join(OF_CLIPS)} have, got "
                f"data.source={source}"
            )
        if self.kind != "classifier":
            raise ValueError(
                f"classifier.tubelet={tubelet} makes a classifier of clips, which cannot be trained as "
                f"{self.kind}: leave out the section {self.kind}"
            )

        training = self.classifier_training
        for_pictures = {
            "model.retrofit": self.model.retrofit,
            "data.trim": self.data.trim,
            "classifier_training.contrastive": training.contrastive,
            "classifier_training.mixup": training.mixup,
            "classifier_training.drawn_images": training.drawn_images,
        }
        given = [name for name, value in for_pictures.items() if value]
        if given:
            raise ValueError(
                f"{given[0]} works on pictures, but classifier.tubelet={tubelet} takes clips: leave one "
                "of them out"
            )

    def _check_encoder(self) -> None:
        """Refuses what an encoder that learns without labels cannot have."""
        if self.encoder is None:
            return

        # The sections beside it
        if self.segmenter is not None or self.detector is not None:
            raise ValueError(
                "a run trains an encoder, a segmenter or a detector, but the config has several of them"
            )
        if self.classifier is None:
            raise ValueError(
                "encoder needs a classifier section, which describes the network, as in fashion_pretrain.yaml"
            )

        # What its network may be
        if self.classifier.hierarchy:
            raise ValueError("encoder trains a plain ViT: leave out classifier.hierarchy")
        if self.classifier.prompts:
            raise ValueError(
                f"classifier.prompts={self.classifier.prompts} tunes an encoder that is trained already: "
                "set it to 0 in the encoder's own training"
            )
        if self.classifier.padding != "none":
            raise ValueError(
                f"classifier.padding={self.classifier.padding} is for classifiers: an encoder learns from "
                f"pictures of whole patches; leave it at none"
            )
        if self.classifier.dynamic and self.encoder.method != "contrast":
            raise ValueError("encoder.method hides patches of one grid: set classifier.dynamic=false")

        # What its training may be
        batch, parts = self.encoder_training.batch, self.encoder_training.accumulate
        if self.encoder.method == "contrast" and batch == parts:
            raise ValueError(
                f"encoder.method=contrast tells the pictures of a micro-batch apart, but one is alone with "
                f"encoder_training.batch={batch} and encoder_training.accumulate={parts}"
            )
        if self.model.retrofit is not None:
            raise ValueError(
                "model.retrofit is for classifiers and generators: retrofit the classifier later"
            )
        if self.data.streaming:
            raise ValueError(
                "encoder needs images by index, which a stream does not have: set data.streaming=false"
            )

    def _check_tuned(self) -> None:
        """Refuses a part to train that the classifier does not have."""
        tuned, classifier = self.classifier_training.tuned, self.classifier
        if self.kind != "classifier" or classifier is None or tuned == "all":
            return
        if classifier.hierarchy or classifier.tubelet is not None:
            raise ValueError(
                f"classifier_training.tuned={tuned} is for a plain ViT of pictures: with "
                "classifier.hierarchy or classifier.tubelet set it to all"
            )
        if tuned == "prompts" and not classifier.prompts:
            raise ValueError(
                "classifier_training.tuned=prompts trains prompts, but classifier.prompts is 0: "
                "set it to 8 or another number"
            )
        if self.model.init_from is None:
            raise ValueError(
                f"classifier_training.tuned={tuned} freezes all other weights, so they must come from a "
                "trained model: set model.init_from"
            )
        if self.model.retrofit is not None:
            raise ValueError(
                f"model.retrofit changes all weights: set classifier_training.tuned=all, got {tuned}"
            )

    def _check_dense(self, name: str) -> None:
        """Refuses what a model on a classifier's maps cannot have."""
        if self.classifier is None:
            raise ValueError(
                f"{name} needs a classifier section, which describes its encoder, as in shapes_{name}.yaml"
            )
        if self.model.retrofit is not None:
            raise ValueError(
                f"model.retrofit gives a classifier or generator another encoding, but the config trains a "
                f"{name}: retrofit its classifier first"
            )

    def _check_sizes(self) -> None:
        of_tokenizer, of_generator = self.tokenizer, self.generator
        if self.classifier is None:
            refuse_oversized("tokenizer", size_of_tokenizer(of_tokenizer), self)
            channels = self.tokenizer_training.adversarial.channels
            refuse_oversized("discriminator", size_of_discriminator(channels), self)

            tokens = Pyramid.of(of_tokenizer.levels).num_tokens
            size = size_of_generator(of_generator, of_tokenizer, tokens)
            refuse_oversized("generator", size, self)
            return

        if self.encoder is not None:
            refuse_oversized("encoder", size_of_encoder(self.encoder, self.classifier), self)
        if self.segmenter is not None:
            refuse_oversized("segmenter", size_of_segmenter(self.segmenter, self.classifier), self)
        if self.detector is not None:
            refuse_oversized("detector", size_of_detector(self.detector, self.classifier), self)
        patch = self.classifier.patch_size
        # rounded up: the model says whether patches have to fill the pictures
        rows, columns = patches_of(self.data.height, self.data.width, patch, "end")
        size = size_of_classifier(self.classifier, rows * columns)
        refuse_oversized("classifier", size, self)
        times = 1 if self.classifier.tubelet is None else self.data.frames // self.classifier.tubelet
        if times * rows * columns > MOST_TOKENS and not self.classifier.hierarchy:
            of_clip = "" if self.classifier.tubelet is None else f", data.frames={self.data.frames}"
            raise ValueError(
                f"data.height={self.data.height} and data.width={self.data.width}{of_clip} make "
                f"{times * rows * columns:,} patches of classifier.patch_size={patch}; attention takes at "
                f"most {MOST_TOKENS:,}"
            )


# Settings by which runs were trained that were saved before these settings existed
BEFORE_IT_WAS_THERE = {
    # colours passed through the autoencoder alone
    "tokenizer": {"shortcut": False},
    # a part of the images was the first ones as stored
    "data": {"subset_seed": None},
}


def settled_config(config: Config) -> Config:
    """The config of a run with everything settled that it leaves open.

    That is what an encoding's line leaves to the model's width, and `precision=auto`. The precision of a
    training that was begun stays the same, also when it is resumed on another device.
    """
    return _with_precisions(_with_lines(config, settled))


def saved_config(file: Path) -> Config:
    """The config.yaml of a run's folder; its lines mean what they meant when it was saved.

    Raises:
        ConfigError: a key, value or rule is wrong.
    """
    config = settings.load(Config, file, if_missing=BEFORE_IT_WAS_THERE)
    return _with_lines(config, lambda line, dim: as_saved(line))


def _with_lines(config: Config, meant: Callable[[str, int], str]) -> Config:
    """The config with the lines of its encodings as they are meant in a model of their width."""
    for name in ("generator", "classifier"):
        section_of_model = getattr(config, name)
        if section_of_model is not None:
            with rules_of(name):
                line = meant(section_of_model.encoding, section_of_model.dim)
            config = replace(config, **{name: replace(section_of_model, encoding=line)})
    return config


def _with_precisions(config: Config) -> Config:
    """The config with the precision of its trainings: the one they began with, or by this device's rule."""
    device = device_asked_for()
    for name in (one.name for one in fields(config) if one.name.endswith("_training")):
        training = getattr(config, name)
        if training.precision != "auto":
            continue

        file = Path(config.tokenizer_run if name == "tokenizer_training" else config.run) / "config.yaml"
        begun: Precision = getattr(saved_config(file), name).precision if file.exists() else "auto"
        settled_here = replace(training, precision=precision_on(begun, device))
        config = replace(config, **{name: settled_here})
    return config


@contextmanager
def rules_of(name: str) -> Iterator[None]:
    """Puts the name of a section before what its model refuses, which may begin with one of its settings.

    Raises:
        ValueError: a setting of the section does not fit the model.
    """
    try:
        yield
    except ValueError as error:
        word = re.split(r"\W", str(error))[0]
        joined = "." if f"{name}.{word}" in settings.all_settings(Config) else ": "
        raise ValueError(f"{name}{joined}{error}") from error
