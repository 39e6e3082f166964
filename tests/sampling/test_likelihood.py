"""Bits are those of the distribution that drawing draws from."""

from math import log2

import numpy as np
import pytest
import torch

from var_pe.processes import Processes
from var_pe.pyramid import Pyramid
from var_pe.sampling.likelihood import bits_of_set, bits_per_level, likeliest_class, summarised

TWO_LEVELS = Pyramid.square(1, 2)


def some_tokens(batch: int = 3) -> torch.Tensor:
    return torch.randint(16, (batch, 30), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_a_model_that_knows_nothing_needs_log2_of_the_codebook_a_token(make_generator, make_tokenizer):
    model = make_generator()
    model.head.weight.zero_()
    model.head.bias.zero_()
    bits = bits_per_level(model, make_tokenizer(), some_tokens(), torch.tensor([[0, 3]]).expand(3, -1))
    assert bits.shape == (3, 2, 4)
    expected = log2(16) * torch.tensor([1.0, 4, 9, 16])
    torch.testing.assert_close(bits, expected.expand(3, 2, 4))


def test_bits_are_of_the_distribution_that_is_drawn_from(pipeline):
    """The cached levels of a drawing in which these tokens are given say the same as one full pass."""
    tokens, labels, logits = some_tokens(), torch.tensor([0, 2, 3]), []
    hook = pipeline.transformer.head.register_forward_hook(lambda module, inputs, out: logits.append(out))
    pipeline.transformer.generate(
        pipeline.tokenizer, labels, generators=[torch.Generator() for _ in range(3)], given_BL=tokens
    )
    hook.remove()
    nats = torch.nn.functional.cross_entropy(torch.cat(logits, 1).transpose(1, 2), tokens, reduction="none")
    bits = bits_per_level(pipeline.transformer, pipeline.tokenizer, tokens, labels[:, None])[:, 0]
    torch.testing.assert_close(bits.sum(1), nats.sum(1) / torch.tensor(2.0).log(), rtol=1e-5, atol=0)
    spans = pipeline.transformer.pyramid.spans
    by_level = torch.stack([nats[:, span].sum(1) for span in spans], 1) / torch.tensor(2.0).log()
    torch.testing.assert_close(bits, by_level, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_probabilities_of_all_pictures_add_up_to_one(make_generator, make_tokenizer, make_loud):
    """Two tokens of a small codebook: every picture there is."""
    model = make_loud(make_generator(levels=((1, 1), (1, 1)), codebook_size=8))
    tokenizer = make_tokenizer(levels=((1, 1), (1, 1)), codebook_size=8)
    tokens = torch.cartesian_prod(torch.arange(8), torch.arange(8))
    bits = bits_per_level(model, tokenizer, tokens, torch.full((64, 1), 1))
    assert bits.std() > 0.1
    torch.testing.assert_close(torch.exp2(-bits.sum(-1)).sum(0), torch.ones(1))


def test_the_class_of_the_fewest_bits_is_chosen():
    """The unconditional label, the last, is never the answer."""
    bits = torch.tensor([[[1.0, 9.0], [4.0, 5.0], [0.0, 0.0]], [[3.0, 3.0], [2.0, 5.0], [0.0, 0.0]]])
    assert likeliest_class(bits).tolist() == [1, 0]
    found = summarised(bits, torch.tensor([1, 1]), TWO_LEVELS)
    assert found["accuracy"] == 0.5
    assert found["accuracy_up_to_level"] == [0.5, 0.5]  # after level one: the second image is right
    assert found["own_class"]["bits_per_level"] == [3, 5]
    assert found["own_class"]["bits_per_image"] == 8
    assert found["unconditional"]["bits_per_image"] == 0
    assert "accuracy" not in summarised(bits, torch.tensor([1, -1]), TWO_LEVELS)
    assert "accuracy" not in summarised(bits[:, -1:], torch.tensor([0, 0]), TWO_LEVELS)


def test_levels_add_up_to_the_accuracy():
    """Up to a level, and not by that level alone: the second one would call both images the first class."""
    bits = torch.tensor([[[9.0, 1.0], [1.0, 2.0], [0.0, 0.0]], [[9.0, 1.0], [7.0, 2.0], [0.0, 0.0]]])
    found = summarised(bits, torch.tensor([1, 1]), TWO_LEVELS)
    assert found["accuracy_up_to_level"] == [1.0, 1.0]


def test_standard_errors_are_those_of_means():
    bits = torch.rand(50, 3, 2, generator=torch.Generator().manual_seed(0)).double()
    found = summarised(bits, torch.arange(50) % 2, TWO_LEVELS)
    expected = np.std(bits[:, 2].sum(1).numpy(), ddof=1) / 50**0.5
    assert found["unconditional"]["standard_error"] == pytest.approx(expected)
    share = found["accuracy"]
    assert found["accuracy_standard_error"] == pytest.approx((share * (1 - share) / 50) ** 0.5)
    alone = summarised(bits[:1], torch.tensor([0]), TWO_LEVELS)
    assert alone["own_class"]["standard_error"] is None
    assert alone["accuracy_standard_error"] is None


def test_a_label_of_no_class_is_named(pipeline):
    images = [{"image": torch.zeros(3, 8, 8), "label": 3}]
    with pytest.raises(ValueError, match="an image has the label 3, but the generator has only 3 classes"):
        bits_of_set(pipeline.transformer, pipeline.tokenizer, images)


def test_images_of_another_size_are_scored_at_their_own_levels(make_generator, make_tokenizer):
    """Encoded at one pyramid and scored at another, tokens would be read as those of other places."""
    models = make_generator("sinusoidal"), make_tokenizer()
    wide = models[0].pyramid.for_size(4, 8)
    images = [{"image": torch.zeros(3, 8, 16), "label": 1}]
    bits, _ = bits_of_set(*models, images, wide)
    tokens = models[1].encode(images[0]["image"][None], wide)
    expected = bits_per_level(*models, tokens, torch.arange(4)[None], wide)
    torch.testing.assert_close(bits, expected)
    with pytest.raises(ValueError, match=r"last level must be the latent grid \(4, 8\), got \(4, 4\)"):
        bits_of_set(*models, images)


def test_batches_and_processes_change_nothing(pipeline):
    pictures = torch.rand(7, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    images = [{"image": picture, "label": place % 3} for place, picture in enumerate(pictures)]
    models = pipeline.transformer, pipeline.tokenizer
    bits, labels = bits_of_set(*models, images)
    assert bits.shape == (7, 4, 4)
    assert labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    small, _ = bits_of_set(*models, images, batch=3)
    torch.testing.assert_close(small, bits)
    shares = [bits_of_set(*models, images, batch=2, processes=Processes(rank, 2)) for rank in range(2)]
    torch.testing.assert_close(torch.cat([share for share, _ in shares]), bits)
