"""The whole of a run's settings: the dataclasses that stand beside what they configure, put together."""

from dataclasses import dataclass, field

from var_pe.data.sources import DataConfig
from var_pe.evaluation.features import EvaluationConfig
from var_pe.models.generator import GeneratorConfig
from var_pe.models.tokenizer import TokenizerConfig
from var_pe.models.transfer import ModelStart
from var_pe.models.vit import ClassifierConfig
from var_pe.sampling.drawing import SamplingConfig
from var_pe.settings.rules import check_numbers
from var_pe.tasks.classifier import ClassifierTraining
from var_pe.tasks.generator import GeneratorTraining
from var_pe.tasks.tokenizer import TokenizerTraining


@dataclass(frozen=True)
class Config:
    run: str  # folder of this run
    tokenizer_run: (
        str  # the tokenizer's folder, shared by all encodings of a data set; trained if not there yet
    )
    seed: int = 0  # of the generator or classifier: weights, order, augmentation, label drop
    tokenizer_seed: int = 0  # the same of the tokenizer
    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    tokenizer_training: TokenizerTraining = field(default_factory=TokenizerTraining)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    generator_training: GeneratorTraining = field(default_factory=GeneratorTraining)
    model: ModelStart = field(default_factory=ModelStart)
    classifier: ClassifierConfig | None = None  # with it, the run trains a ViT classifier and nothing else
    classifier_training: ClassifierTraining = field(default_factory=ClassifierTraining)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        check_numbers(self, seed="[0, inf)", tokenizer_seed="[0, inf)")
