"""Runs that several test files start, and the settings that make them tiny."""

from accelerate import Accelerator

from var_pe.models.generator import VARTransformer
from var_pe.stages.config import Config
from var_pe.stages.train import check_generator, train_generator, train_tokenizer

# A tokenizer and a generator that train in milliseconds, on pictures of 16 x 16
TINY = [
    "data.height=16",
    "data.width=16",
    "tokenizer.levels=[1, 2]",
    "tokenizer.channels=8",
    "tokenizer.norm_groups=8",
    "tokenizer.codebook_size=16",
    "tokenizer.latent_channels=4",
    "generator.dim=16",
    "generator.depth=1",
    "generator.num_heads=2",
]


def train_both(config: Config) -> VARTransformer:
    """The generator of a config, after the tokenizer that it needs, as scripts/train.py does it."""
    accelerator = Accelerator()
    check_generator(config)
    return train_generator(config, train_tokenizer(config, accelerator), accelerator)
