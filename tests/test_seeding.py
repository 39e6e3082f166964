"""Seeds: what they are made of decides them, and nothing else does."""

import torch

from var_pe.seeding import generator_for, mix, random_bits, shifted


def test_different_parts_give_different_seeds():
    """A sum would make image 1 of seed 7 the image 0 of seed 8, and joined text 1, 23 the same as 12, 3."""
    parts = [(0, 1, 7), (0, 0, 8), (0, 17), (1, 23), (12, 3), ("1", 23), ("a", "b"), ("ab",), ("a, b",), ()]
    assert len({mix(*each) for each in parts}) == len(parts)


def test_seeds_fill_the_range_that_a_generator_takes():
    seeds = [mix(number, "image") for number in range(2000)]
    assert len(set(seeds)) == 2000
    assert 0 <= min(seeds) < 2**55
    assert 2**63 - 2**55 < max(seeds) < 2**63


def test_a_seed_is_the_same_on_every_machine():
    """Written down once: another hash would draw other weights and other images under every seed."""
    assert mix(0, "image", 1) == 4403659794881473473
    assert mix("weights") == 5066778223751063737


def test_a_generator_follows_from_its_parts_and_leaves_the_global_one_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    drawn = torch.rand(4, generator=generator_for(3, "x"))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(drawn, torch.rand(4, generator=generator_for(3, "x")))
    assert not torch.equal(drawn, torch.rand(4, generator=generator_for(3, "y")))


def test_random_bits_are_those_of_the_published_generator():
    """The outputs for the seed 1234567 as SplitMix64's own code prints them: every device must agree."""
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    found = random_bits(1234567, torch.arange(5))
    assert [int(bits) % 2**64 for bits in found] == published


def test_random_bits_depend_on_their_own_number_and_seed_alone():
    """An image's chance must be the same alone and in any batch, and another one under another seed."""
    numbers = torch.arange(1000)
    together = random_bits(5, numbers)
    assert torch.equal(together[7:8], random_bits(5, torch.tensor([7])))
    assert torch.equal(together.flip(0), random_bits(torch.full((1000,), 5), numbers.flip(0)))
    assert len(set(together.tolist()) | set(random_bits(6, numbers).tolist())) == 2000


def test_random_bits_are_one_half_of_the_time():
    """Each of the 64, and each pair of neighbouring numbers agrees in half of them."""
    bits = random_bits(0, torch.arange(20000))
    ones = torch.stack([shifted(bits, place) & 1 for place in range(64)]).float()
    assert (ones.mean(1) - 0.5).abs().max() < 0.02
    assert abs((ones[:, 1:] == ones[:, :-1]).float().mean() - 0.5) < 0.005
