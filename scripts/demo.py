"""Runs the whole path in minutes on two processor cores: made-up pictures, three encodings, one seed.

    python scripts/demo.py [key.sub=value ...]

Calls scripts/compare.py with trainings that are far too short for good pictures.
"""

import shlex
import sys

from compare import main as compare

ENCODINGS = ("learned", "sinusoidal", "mixed(learned=0.7, sinusoidal=0.3)")
SHORT = (
    "tokenizer_run=runs/demo/tokenizer",
    "data.shapes_train=8000",
    "data.shapes_test=1200",
    "tokenizer_training.steps=300",
    "tokenizer_training.batch=64",
    "tokenizer_training.validate_every=0",
    "tokenizer_training.preview_every=0",
    "generator.dim=128",
    "generator.depth=4",
    "generator.num_heads=4",
    "generator_training.steps=500",
    "generator_training.batch=64",
    "generator_training.log_every=25",
    "generator_training.validate_every=100",
    "generator_training.preview_every=0",
    "generator_training.validation_images=600",
    "sampling.images_per_class=50",
)


def main() -> None:
    options = ["--config", "shapes_learned.yaml", "--encodings", *ENCODINGS, "--seeds", "0"]
    argv = [*options, "--output", "runs/demo", *SHORT, *sys.argv[1:]]
    print(f"python scripts/compare.py {shlex.join(argv)}\n", flush=True)
    compare(argv)


if __name__ == "__main__":
    main()
