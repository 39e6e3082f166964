"""Requests of many sizes: each gets its own answer, batches have one size, and what waits is bounded."""

import pytest
import torch

from var_pe.interop.batching import answered
from var_pe.models.vit import ViTClassifier

SIZES = [(8, 8), (8, 12), (16, 16)]


def requests(number: int):
    torch.manual_seed(0)
    for key in range(number):
        yield key, torch.rand(1, *SIZES[(key * key) % 3]) * 2 - 1


def test_every_request_gets_the_answer_it_would_get_alone():
    """Of a dynamic classifier, whose positions follow each batch's size."""
    torch.manual_seed(0)
    model = ViTClassifier(
        image_size=(8, 8),
        image_channels=1,
        num_classes=4,
        patch_size=4,
        dim=16,
        depth=1,
        num_heads=2,
        encoding="sinusoidal",
        dynamic=True,
    ).eval()
    found = dict(answered(model, requests(23), batch_values=300, waiting_values=900))
    assert sorted(found) == list(range(23))
    for key, image_CHW in requests(23):
        torch.testing.assert_close(found[key], model(image_CHW[None])[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("batch_values", "waiting_values"), [(300, 900), (10**9, 500), (1, 1), (10**9, 10**9)]
)
def test_neither_batches_nor_what_waits_grow_beyond_their_bounds(batch_values, waiting_values):
    asked, given, batches = [], [], []

    def model(images_BCHW):
        batches.append(images_BCHW.shape)
        return images_BCHW.flatten(1).mean(1, keepdim=True)

    def counted():
        for key, image_CHW in requests(40):
            # What was asked for before this one and has no answer yet
            left = sum(size for other, size in asked if other not in given)
            assert left <= waiting_values
            asked.append((key, image_CHW.numel()))
            yield key, image_CHW

    for key, _ in answered(model, counted(), batch_values=batch_values, waiting_values=waiting_values):
        given.append(key)

    assert sorted(given) == list(range(40))
    assert all(shape[0] == 1 or shape.numel() <= batch_values for shape in batches)
    if batch_values == waiting_values == 10**9:
        assert len(batches) == len({shape[2:] for shape in batches})


def test_bounds_below_one_are_refused():
    with pytest.raises(ValueError, match="waiting_values must be at least 1, got 0"):
        list(answered(lambda images: images, [], batch_values=1, waiting_values=0))
