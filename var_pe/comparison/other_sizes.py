"""Trained generators at levels that they were never trained on, without any training there.

More cells for the same scene are another scale, a wider or higher scene another extent. Tables that belong to
their grids are resampled by every convention that is asked for; all else follows by itself, waves of rope in
further ways if they are asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from var_pe.comparison.places import nats_by_place
from var_pe.comparison.results import AtSize
from var_pe.comparison.study import Cell, Study
from var_pe.encodings import build_encoding
from var_pe.encodings.machinery.bands import Remap, can_be_remapped, remapped
from var_pe.models.generator import VARTransformer
from var_pe.models.tokenizer import VQTokenizer
from var_pe.pyramid import Pyramid
from var_pe.resampling.conventions import convention_of
from var_pe.stages.config import Config
from var_pe.stages.models import load_model
from var_pe.stages.pyramids import generator_pyramids
from var_pe.stages.tokens import held_out_tokens
from var_pe.tasks.pyramids import check_follows, check_moves


@dataclass(frozen=True)
class Way:
    """Levels, and how a generator's positions come there."""

    pyramid: Pyramid
    # of its tables; None: it follows by itself
    convention: str | None = None
    # of waves of rope; None: as they are
    remap: Remap | None = None

    @property
    def name(self) -> str:
        given = [self.convention, f"remap={self.remap}" if self.remap else None]
        return ", ".join(filter(None, given))

    def is_of(self, found: AtSize) -> bool:
        """Whether a result was measured at these levels in this way."""
        return Pyramid.of(found["grids"]) == self.pyramid and found["convention"] == self.name


def ways_of(config: Config, study: Study) -> list[Way]:
    """How an arm's generators are measured at each of the study's other sizes.

    Raises:
        ValueError: a generator of these settings cannot be moved there.
    """
    own = Pyramid.of(config.tokenizer.levels)
    ways = []
    for levels in study.other_sizes:
        pyramid = Pyramid.of(levels)
        remaps = remaps_at(config, study, pyramid)
        try:
            check_follows(config.generator, own, [pyramid])
        except ValueError:
            for name in study.resamplings:
                check_moves(config.generator, own, pyramid, name)
                ways += [Way(pyramid, name, how) for how in (None, *remaps)]
        else:
            ways += [Way(pyramid, remap=how) for how in (None, *remaps)]
    return ways


def remaps_at(config: Config, study: Study, pyramid: Pyramid) -> list[Remap]:
    """The study's remaps, for an arm that has waves for them and was not trained at these levels.

    Raises:
        ValueError: an option of its encoding does not go with one of them.
    """
    line, own = config.generator.encoding, Pyramid.of(config.tokenizer.levels)
    if not can_be_remapped(line) or pyramid in generator_pyramids(config):
        return []

    generator = config.generator
    for how in study.remaps:
        build_encoding(
            remapped(line, how, own.grids[-1]),
            dim=generator.dim,
            num_heads=generator.num_heads,
            depth=generator.depth,
            pyramid=own,
        )
    return list(study.remaps)


def check_sizes(config: Config, study: Study) -> None:
    """Checks that an arm's generators can be measured at all sizes of the study.

    Raises:
        ValueError: they cannot, or a convention is not known.
    """
    for name in study.resamplings:
        convention_of(name)
    try:
        ways_of(config, study)
    except ValueError as error:
        raise ValueError(
            f"other_sizes: {config.generator.encoding} cannot be measured there: {error}"
        ) from error


def is_measured(cell: Cell, study: Study, there: Sequence[AtSize]) -> bool:
    """Whether a cell has been measured at all sizes that the study asks for."""
    return all(any(way.is_of(found) for found in there) for way in ways_of(cell.config, study))


def measured_at(cell: Cell, study: Study, tokenizer: VQTokenizer, there: Sequence[AtSize]) -> list[AtSize]:
    """The nats of a trained cell at every other size, on the test images of its validations drawn at it.

    What is `there` already is not measured again.
    """
    found = list(there)
    number = cell.config.generator_training.validation_images
    for way in ways_of(cell.config, study):
        if any(way.is_of(one) for one in there):
            continue
        transformer = load_model(VARTransformer, Path(cell.run) / "generator").to(tokenizer.device).eval()
        if way.remap is not None:
            transformer.remap_waves(way.remap)
        if way.convention is not None:
            transformer.set_pyramid(way.pyramid, way.convention)
        tokens_NL, labels_N = held_out_tokens(cell.config, tokenizer, [way.pyramid], number)[way.pyramid]
        nats_L = nats_by_place(transformer, tokenizer, tokens_NL, labels_N, way.pyramid)
        found.append(
            {
                "grids": [list(grid) for grid in way.pyramid.grids],
                "convention": way.name,
                "loss": float(nats_L.mean()),
                "by_level": [float(nats_L[span].mean()) for span in way.pyramid.spans],
            }
        )
    return found
