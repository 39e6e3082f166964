"""The same features of a set on any number of processes."""

from dataclasses import dataclass, field

import pytest
import torch

from tests.evaluation.tiny import pictures, tiny
from var_pe.evaluation.extraction import extract
from var_pe.evaluation.features import FeatureSet
from var_pe.processes import Processes


class Unfinished(Exception):
    """The others have not been here yet."""


@dataclass(frozen=True)
class InTurn(Processes):
    """Processes that run one after another; the last one gets what all of them found."""

    found: list[FeatureSet] = field(default_factory=list)

    def gather(self, parts):
        self.found.extend(parts)
        if self.rank < self.world - 1:
            raise Unfinished
        return self.found


@pytest.mark.parametrize("world", [1, 2, 3, 13])
def test_processes_put_the_set_together_in_order(world):
    """The score must not depend on how many processes took part, nor on some having nothing to do."""
    images = [(image, label) for label, image in enumerate(pictures(11))]
    parts: list[FeatureSet] = []
    done: list[int] = []
    for rank in range(world - 1):
        with pytest.raises(Unfinished):
            extract(
                tiny(),
                images,
                batch_size=4,
                processes=InTurn(rank, world, found=parts),
                on_progress=done.append,
            )

    last = InTurn(world - 1, world, found=parts)
    found = extract(tiny(), images, batch_size=4, processes=last, on_progress=done.append)
    alone = extract(tiny(), images, batch_size=11)
    torch.testing.assert_close(found.features_NF, alone.features_NF)
    torch.testing.assert_close(found.logits_NV, alone.logits_NV)
    assert found.labels_N.tolist() == list(range(11))
    assert sum(done) == 11


def test_some_images_can_be_taken_from_a_set():
    """The first thousand of five need no second pass."""
    found = extract(tiny(), [(image, 9) for image in pictures(6)])
    some = found.take(torch.tensor([4, 1]))
    assert len(some) == 2
    assert torch.equal(some.features_NF, found.features_NF[[4, 1]])
    assert torch.equal(some.logits_NV, found.logits_NV[[4, 1]])
    assert some.labels_N.tolist() == [9, 9]


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        ([], "at least one image, got an empty set"),
        (
            [(pictures(1)[0], 0), (pictures(1, side=16)[0], 0)],
            r"same size, got \(3, 16, 16\) at 1 and \(3, 32, 32\) at 0",
        ),
    ],
)
def test_what_cannot_be_extracted_is_one_sentence(images, sentence):
    with pytest.raises(ValueError, match=sentence):
        extract(tiny(), images)
