"""What made-up shapes hold, to the nat: all their pictures are encoded and equal tokens counted.

Pictures are uniform, so the probability of tokens is the share of pictures that the tokenizer maps to them,
given a class the share of the class's pictures. What a generator needs beyond minus its logarithm is excess,
with no guess in it.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from var_pe.comparison.results import Exact
from var_pe.data.images import to_tensor
from var_pe.data.part import drawn
from var_pe.data.shapes import SPACE, Factors, Shapes, render_all
from var_pe.data.sources import open_source
from var_pe.files import remove, written_whole
from var_pe.models.tokenizer import VQTokenizer
from var_pe.progress import Counter
from var_pe.pyramid import Pyramid
from var_pe.seeding import mix
from var_pe.stages.config import Config
from var_pe.stages.models import weights_hash

Tokens = NDArray[np.int64]


def check_countable(config: Config) -> None:
    """Checks that a config's images are among pictures that can all be made and counted.

    Raises:
        ValueError: they are not.
    """
    data = config.data
    known = data.source == "shapes" and data.channels == 3 and not data.classes and not data.flip
    if not known or data.frames_by != "pad" or data.zoom != 1:
        raise ValueError(
            "count_pictures needs data.source=shapes in colour as they are: data.channels=3, all classes, "
            "data.framing=pad, data.zoom=1 and data.flip=false"
        )


@torch.no_grad()
def count_pictures(config: Config, tokenizer: VQTokenizer, folder: Path) -> Exact:
    """The exact nats of the tokens of all pictures, and of the test images that validations look at.

    What is encoded is kept class by class in `folder` until all of it is counted.
    """
    source = open_source(config.data, train=False)
    assert isinstance(source, Shapes), "check_countable has looked"
    numbers = drawn(len(source), config.generator_training.validation_images, config.data.subset_seed)
    chosen = [int(np.ravel_multi_index(source.factors(number), SPACE)) for number in numbers]

    size = config.data.height, config.data.width
    weights = weights_hash(Path(config.tokenizer_run) / "tokenizer")
    folder = folder / f"every_picture_{mix(weights, repr(size), str(tokenizer.pyramid)):016x}"
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    with Counter(math.prod(SPACE), "encoding every picture", unit="picture") as counter:
        for label in range(SPACE.label):
            file = folder / f"{label}.npy"
            if not file.exists():
                encode_class(file, label, size, tokenizer, counter.add)
            parts.append(np.load(file))
    found = counted(np.concatenate(parts), np.array(chosen), tokenizer.pyramid)
    remove(folder)
    return found


def encode_class(
    file: Path,
    label: int,
    size: tuple[int, int],
    tokenizer: VQTokenizer,
    on_progress: Callable[[int], object],
) -> None:
    """Writes the tokens of all pictures of a class, in the order of their factors."""
    parts = []
    for pixels_PHW3 in pictures_of(label, size):
        images_PCHW = torch.stack([to_tensor(pixels, 3) for pixels in pixels_PHW3])
        parts.append(tokenizer.encode(images_PCHW.to(tokenizer.device)).cpu().numpy().astype(np.int32))
        on_progress(len(pixels_PHW3))
    with written_whole(file) as draft, draft.open("wb") as stream:
        np.save(stream, np.concatenate(parts))


def pictures_of(label: int, size: tuple[int, int]) -> Iterator[NDArray[np.uint8]]:
    """All pictures of a class, in the order of their factors, those of one place and size together."""
    space: Factors = SPACE
    for row in range(space.row):
        for column in range(space.column):
            for of_size in range(space.size):
                yield render_all(label, row, column, of_size, *size)


# ------------------------------------------------------------------------------------------ counting


@dataclass(frozen=True)
class Groups:
    """Pictures that agree in their class and all tokens so far."""

    # the group of every picture, from 0 on
    of_N: Tokens
    # pictures of each group
    size_G: Tokens

    @classmethod
    def by(cls, keys_N: Tokens) -> "Groups":
        """Pictures of equal keys."""
        _, of_N, size_G = np.unique(keys_N, return_inverse=True, return_counts=True)
        return cls(of_N, size_G)

    @property
    def size_N(self) -> Tokens:
        """Pictures of the group of every picture."""
        return self.size_G[self.of_N]

    def split_by(self, tokens_N: Tokens, codes: int) -> "Groups":
        """Pictures that agree in this token, too."""
        return Groups.by(self.of_N * codes + tokens_N)


def counted(tokens_NL: NDArray[np.int32], chosen: Tokens, pyramid: Pyramid) -> Exact:
    """Exact nats of all pictures, and token by token of those that are `chosen` by their numbers.

    The pictures come in the order of their classes, as many of each.
    """
    pictures, codes = len(tokens_NL), int(tokens_NL.max()) + 1
    groups = Groups.by(np.arange(pictures) * SPACE.label // pictures)

    by_place, by_level, of_all = [], [], []
    for span in pyramid.spans:
        before = groups
        for place in range(span.start, span.stop):
            tokens_N = tokens_NL[:, place].astype(np.int64)
            alone = before.split_by(tokens_N, codes)
            by_place.append(float(_nats(before, alone)[chosen].mean()))
            groups = groups.split_by(tokens_N, codes)
        nats_N = _nats(before, groups)
        by_level.append(float(nats_N[chosen].mean()))
        of_all.append(float(nats_N.mean()))

    return {
        "pictures": pictures,
        "distinct": len(groups.size_G),
        "nats_of_all": of_all,
        "nats_by_level": by_level,
        "nats_by_place": by_place,
        "images": len(chosen),
    }


def _nats(before: Groups, after: Groups) -> NDArray[np.float64]:
    """Minus the logarithm of the share of a picture's group before that is in its group after."""
    return np.log(before.size_N) - np.log(after.size_N)
