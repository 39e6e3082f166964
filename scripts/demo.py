"""Runs everything from training to a report in minutes on two CPU cores: drawn shapes, three encodings.

    python scripts/demo.py [key.sub=value ...]

Calls scripts/train.py for a small ViT that tells the shapes apart and for a tokenizer, then
scripts/compare.py, all at 24x24 instead of the 32x32 of the configs, with short trainings. The comparison
begins with the tokenizer's decoder alone, which learns to make whole pictures of tokens some of which were
drawn at random (docs/tokenizers.md). Every picture is drawn several times, and the ViT keeps the drawing
whose class it finds likeliest. Encodings are ranked by the share of kept pictures whose shape can be read and
is the one that was asked for (docs/method.md, section 10). The shape is read by formulas, not by the ViT.
"""

import argparse
import shlex
from collections.abc import Callable, Sequence

import var_pe  # noqa: F401  # before torch, whose threads it makes wait politely

# isort: split
import torch
from compare import main as compare
from train import main as train

from var_pe.data.shapes import CLASSES
from var_pe.settings import load
from var_pe.stages.config import Config
from var_pe.stages.models import build_generator, build_tokenizer
from var_pe.stages.session import exit_with_sentence

RUN = "runs/demo"
ENCODINGS = ("learned", "mixed(learned=0.7, sinusoidal=0.3)", "sinusoidal + rope + peg(after=(0, 1, 2))")
DATA = ("data.height=24", "data.width=24", "data.shapes_train=16000", "data.shapes_test=1200")
CLASSIFIER = (
    f"run={RUN}/classifier",
    "classifier.encoding=learned + peg(after=(0, 1, 2))",
    "classifier_training.optimizer=muon",
    "classifier_training.learning_rate=6e-3",
    "classifier_training.steps=500",
    "classifier_training.ema=0.99",
)
TOKENIZER = (
    "tokenizer.levels=[1, 2, 3, 4, 6]",
    "tokenizer.codebook_size=256",
    "tokenizer.quantizer=vq(rate=0.2, given=coarser)",
    "tokenizer.channel_multipliers=[1, 1]",
    "tokenizer.attention=false",
    "tokenizer_training.optimizer=muon",
    "tokenizer_training.ema=0.99",
    "tokenizer_training.validate_every=0",
    "tokenizer_training.preview_every=0",
)
FIRST_TOKENIZER = (
    f"tokenizer_run={RUN}/first_tokenizer",
    f"run={RUN}",
    "tokenizer_training.steps=1000",
    "tokenizer_training.batch=16",
)
DECODER = (
    f"tokenizer_run={RUN}/tokenizer",
    f"tokenizer_init_from={RUN}/first_tokenizer",
    "tokenizer_training.tuned=decoder",
    "tokenizer_training.steps=600",
    "tokenizer_training.batch=32",
    "tokenizer_training.redrawn={share: 0.6, images: 0.75, start: 0}",
)
GENERATORS = (
    "generator.dim=96",
    "generator.depth=4",
    "generator.num_heads=3",
    "generator_training.optimizer=muon",
    "generator_training.steps=480",
    "generator_training.batch=32",
    "generator_training.learning_rate=6e-3",
    "generator_training.ema=0.99",
    "generator_training.log_every=50",
    "generator_training.validate_every=240",
    "generator_training.preview_every=0",
    "generator_training.validation_images=600",
    "sampling.guidance_scale=3",
    "sampling.images_per_class=25",
    "sampling.draws_per_image=6",
    f"sampling.classifier={RUN}/classifier",
    "evaluation.features=[]",
)


@exit_with_sentence()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="settings of the generators")
    asked = parser.parse_args().overrides

    # How a tokenizer is trained means the first training of it, but for what is drawn anew.
    anew = [one for one in asked if one.startswith("tokenizer_training.redrawn")]
    of_first = [one for one in asked if one not in anew]
    of_rest = [one for one in of_first if not one.startswith("tokenizer_training.")] + anew
    first = [*DATA, *TOKENIZER, *FIRST_TOKENIZER, *GENERATORS, *of_first]
    rest = [*DATA, *TOKENIZER, *DECODER, *GENERATORS, *of_rest]
    check(first)
    check(rest)

    of_data = [one for one in asked if one.startswith("data.")]
    run(train, ["--config", "shapes_vit.yaml", *DATA, *CLASSIFIER, *of_data])
    run(train, ["--config", "shapes_learned.yaml", "--stage", "tokenizer", *first])

    options = ["--config", "shapes_learned.yaml", "--encodings", *ENCODINGS, "--seeds", "0"]
    options += ["--primary", "kind_as_asked_shapes", "--output", RUN]
    run(compare, [*options, *rest])


def check(settings_of_generators: Sequence[str]) -> None:
    """Finds a mistake before the classifier is trained, which takes a minute.

    Raises:
        ValueError: a setting does not exist, is out of its range, or does not fit the others.
    """
    config = load(Config, "shapes_learned.yaml", settings_of_generators)
    with torch.device("meta"):
        build_tokenizer(config)
        build_generator(config, len(CLASSES))


def run(command: Callable[[Sequence[str]], None], argv: Sequence[str]) -> None:
    print(f"python scripts/{command.__module__}.py {shlex.join(argv)}\n", flush=True)
    command(argv)


if __name__ == "__main__":
    main()
