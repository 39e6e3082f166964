"""Random numbers of a drawing: an image's own, alike in any batch, evenly spread, and independent."""

import torch
from scipy.stats import kstest

from var_pe.models.numbers import keys_of, token_keys, uniform, uniform_pairs
from var_pe.pyramid import Pyramid

CPU = torch.device("cpu")
PYRAMID = Pyramid(((1, 1), (2, 3), (4, 6)))


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_a_key_is_known():
    """SplitMix64 by whole numbers of Python: another result would be other pictures from the same seed."""

    def mixed(x: int) -> int:
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
        return x ^ (x >> 31)

    def child(key: int, number: int) -> int:
        return mixed((key + (number + 1) * 0x9E3779B97F4A7C15) % 2**64)

    key_BL = token_keys(torch.tensor([5, -7]), PYRAMID)
    places = [(level, place) for level, (h, w) in enumerate(PYRAMID.grids) for place in range(h * w)]
    for key, row_L in zip((5, 2**64 - 7), key_BL.tolist(), strict=True):
        assert [x % 2**64 for x in row_L] == [child(child(key, level), place) for level, place in places]


def test_a_number_follows_from_the_image_alone():
    """In any batch and at any place in it."""
    together = token_keys(keys_of(generators(3, 1, 2), CPU), PYRAMID)
    for row, seed in enumerate((3, 1, 2)):
        assert torch.equal(token_keys(keys_of(generators(seed), CPU), PYRAMID)[0], together[row])
    assert together.unique().numel() == together.numel()


def test_a_level_s_numbers_are_its_own():
    """Other levels before it, or a larger last one, leave them alone."""
    key_B = keys_of(generators(3), CPU)
    other = Pyramid(((4, 6), (2, 3), (5, 6)))
    there = token_keys(key_B, other)
    assert torch.equal(token_keys(key_B, PYRAMID)[:, 1:7], there[:, 24:30])
    assert torch.equal(token_keys(key_B, PYRAMID)[:, 7:], there[:, 30:54])


def test_a_generator_that_goes_on_gives_another_key():
    (generator,) = generators(3)
    first, second = (keys_of([generator], CPU) for _ in range(2))
    assert torch.equal(first, keys_of(generators(3), CPU))
    assert not torch.equal(first, second)


def test_the_whole_seed_counts():
    """Torch's generators start alike from seeds that differ by a multiple of 2^32."""
    assert len(set(keys_of(generators(1, 1 + 2**32, 1 + 2**40, 1 + 2**63, 2**64 - 1), CPU).tolist())) == 5


def test_numbers_are_evenly_spread_and_never_one():
    number_N2 = uniform_pairs(token_keys(keys_of(generators(0), CPU), Pyramid(((300, 300),))))[0]
    assert number_N2.min() >= 0
    assert number_N2.max() < 1
    assert number_N2.dtype == torch.float32
    assert number_N2.unique().numel() > 0.97 * 2 * 90_000
    for column_N in number_N2.T:
        assert kstest(column_N.numpy(), "uniform").pvalue > 1e-4
        assert abs(torch.corrcoef(torch.stack([column_N[:-1], column_N[1:]]))[0, 1]) < 4 / 90_000**0.5
    assert abs(torch.corrcoef(number_N2.T)[0, 1]) < 4 / 90_000**0.5
    assert uniform(torch.tensor([-1])) == 1 - 2**-23
    assert uniform(torch.tensor([0])) == 0


def test_images_of_neighbouring_seeds_are_independent():
    number_BL = uniform(token_keys(keys_of(generators(*range(64)), CPU), Pyramid(((40, 50),))))
    off_diagonal = torch.corrcoef(number_BL) - torch.eye(64)
    assert off_diagonal.abs().max() < 6 / 2000**0.5
