"""Seeds: what they are made of decides them, and nothing else does."""

import torch

from var_pe.seeding import generator_for, mix


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
