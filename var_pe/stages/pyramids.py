"""Which pyramids a config trains on, and the images that each asks for."""

from collections.abc import Sequence
from dataclasses import replace

from var_pe.pyramid import Pyramid
from var_pe.stages.config import Config
from var_pe.tasks.pyramids import check_follows


def tokenizer_pyramids(config: Config) -> list[Pyramid]:
    """Those that the tokenizer's training draws from: its own levels, alone or as the first.

    Raises:
        ValueError: they are not the first, or the data are a stream.
    """
    return _own_levels_first(config, "tokenizer_training", config.tokenizer_training.pyramids)


def generator_pyramids(config: Config) -> list[Pyramid]:
    """Those that the generator's training draws from: the tokenizer's levels, alone or as the first.

    Raises:
        ValueError: they are not the first, the data are a stream, or the generator cannot follow one.
    """
    pyramids = _own_levels_first(config, "generator_training", config.generator_training.pyramids)
    check_follows(config.generator, pyramids[0], pyramids[1:])
    return pyramids


def _own_levels_first(
    config: Config, section: str, given: Sequence[Sequence[int | Sequence[int]]]
) -> list[Pyramid]:
    own = Pyramid.of(config.tokenizer.levels)
    pyramids = [Pyramid.of(levels) for levels in given] or [own]
    if pyramids[0] != own:
        raise ValueError(
            f"{section}.pyramids must begin with tokenizer.levels {own}, for which the run's images "
            f"are drawn, got {pyramids[0]}"
        )
    if config.data.streaming and len(pyramids) > 1:
        raise ValueError(f"{section}.pyramids needs images by number: set data.streaming=false")
    return pyramids


def at_pyramid(config: Config, pyramid: Pyramid, downsampling: int) -> Config:
    """The config with images of the size that `pyramid` ends at, `downsampling` pixels a cell."""
    height, width = (side * downsampling for side in pyramid.finest)
    return replace(config, data=config.data.at_size(height, width))
