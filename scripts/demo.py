"""Runs the whole path in minutes on two processor cores: made-up pictures, three encodings, one seed.

    python scripts/demo.py [key.sub=value ...]

Calls scripts/compare.py at 24x24 instead of the 32x32 of shapes_learned.yaml, with short trainings. Encodings
are ranked by the share of drawn pictures whose shape can be read and is the one that was asked for
(docs/method.md, section 10).
"""

import shlex
import sys

from compare import main as compare

ENCODINGS = ("learned", "mixed(learned=0.7, sinusoidal=0.3)", "sinusoidal + rope + peg(after=(0, 1, 2))")
SHORT = (
    "tokenizer_run=runs/demo/tokenizer",
    "data.height=24",
    "data.width=24",
    "data.shapes_train=16000",
    "data.shapes_test=1200",
    "tokenizer.levels=[1, 2, 4, 6]",
    "tokenizer.codebook_size=256",
    "tokenizer.quantizer=vq(rate=0.1)",
    "tokenizer.channel_multipliers=[1, 1]",
    "tokenizer.attention=false",
    "tokenizer_training.optimizer=muon",
    "tokenizer_training.steps=1000",
    "tokenizer_training.batch=16",
    "tokenizer_training.ema=0.99",
    "tokenizer_training.validate_every=0",
    "tokenizer_training.preview_every=0",
    "generator.dim=96",
    "generator.depth=4",
    "generator.num_heads=3",
    "generator_training.optimizer=muon",
    "generator_training.steps=700",
    "generator_training.batch=32",
    "generator_training.learning_rate=6e-3",
    "generator_training.ema=0.99",
    "generator_training.log_every=50",
    "generator_training.validate_every=350",
    "generator_training.preview_every=0",
    "generator_training.validation_images=600",
    "sampling.guidance_scale=3",
    "sampling.images_per_class=25",
    "evaluation.features=[]",
)


def main() -> None:
    options = ["--config", "shapes_learned.yaml", "--encodings", *ENCODINGS, "--seeds", "0"]
    options += ["--primary", "kind_as_asked_shapes", "--output", "runs/demo"]
    argv = [*options, *SHORT, *sys.argv[1:]]
    print(f"python scripts/compare.py {shlex.join(argv)}\n", flush=True)
    compare(argv)


if __name__ == "__main__":
    main()
