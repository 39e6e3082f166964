"""Runs that several test files start."""

from accelerate import Accelerator

from var_pe.models.generator import VARTransformer
from var_pe.stages.config import Config
from var_pe.stages.train import check_generator, train_generator, train_tokenizer


def train_both(config: Config) -> VARTransformer:
    """The generator of a config, after the tokenizer that it needs, as scripts/train.py does it."""
    accelerator = Accelerator()
    check_generator(config)
    return train_generator(config, train_tokenizer(config, accelerator), accelerator)
