"""The pyramids that a config trains on, and the images that each of them needs."""

from collections.abc import Sequence
from dataclasses import replace

from var_pe.pyramid import Pyramid
from var_pe.stages.config import Config
from var_pe.tasks.progressive import check_first
from var_pe.tasks.pyramids import check_follows


def tokenizer_pyramids(config: Config) -> list[Pyramid]:
    """The pyramids of the tokenizer's training: its own levels, alone or first among several.

    Raises:
        ValueError: its own levels do not come first, or there are several and the data are a stream.
    """
    return _own_levels_first(config, "tokenizer_training", config.tokenizer_training.pyramids)


def generator_pyramids(config: Config) -> list[Pyramid]:
    """The pyramids of the generator's training: the tokenizer's levels, alone or first among several.

    Raises:
        ValueError: as in `tokenizer_pyramids`, or the generator cannot follow one of them, or no level would
            come in later in progressive training.
    """
    pyramids = _own_levels_first(config, "generator_training", config.generator_training.pyramids)
    check_first(config.generator_training.progressive, pyramids[0])
    check_follows(config.generator, pyramids[0], pyramids[1:])
    return pyramids


def _own_levels_first(
    config: Config, section: str, given: Sequence[Sequence[int | Sequence[int]]]
) -> list[Pyramid]:
    """The given pyramids, checked; the tokenizer's levels if none are given."""
    own = Pyramid.of(config.tokenizer.levels)
    pyramids = [Pyramid.of(levels) for levels in given] or [own]
    if pyramids[0] != own:
        raise ValueError(
            f"{section}.pyramids must begin with tokenizer.levels {own}, at which the run's images "
            f"are drawn, got {pyramids[0]}"
        )
    if config.data.streaming and len(pyramids) > 1:
        raise ValueError(
            f"{section}.pyramids needs images by index, which a stream does not have: set "
            "data.streaming=false"
        )
    return pyramids


def at_pyramid(config: Config, pyramid: Pyramid, downsampling: int) -> Config:
    """The config with images of the size of the pyramid's finest level, at `downsampling` pixels a cell."""
    height, width = (side * downsampling for side in pyramid.finest)
    return replace(config, data=config.data.at_size(height, width))
