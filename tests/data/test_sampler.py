"""The order of images is a pure function of seed and place, however many processes draw them."""

from itertools import islice

import pytest

from var_pe.data.sampler import EndlessSampler


def draws(count: int, **options) -> list:
    return [draw for batch in islice(EndlessSampler(**options), count) for draw in batch]


def test_every_epoch_visits_every_image_once():
    """A forgotten or doubled image would bias what is learned."""
    all_draws = draws(5, length=20, batch=12, seed=3)
    for epoch in range(3):
        assert sorted(d.index for d in all_draws if d.epoch == epoch) == list(range(20))
    assert [d.index for d in all_draws[:20]] != [d.index for d in all_draws[20:40]]


def test_draws_are_those_of_the_orders_of_their_epochs():
    """Batches may end within an epoch, with it, or hold several."""
    for batch in (1, 3, 5, 17):
        sampler = EndlessSampler(length=5, batch=batch, seed=2, start=7)
        found = [draw for draws in islice(sampler, 6) for draw in draws]
        for number, draw in enumerate(found, start=7):
            assert draw == (number // 5, int(sampler.order(number // 5)[number % 5]), number)


def test_two_processes_draw_together_what_one_draws_alone():
    """Results may not depend on how many processes share the batch."""
    alone = draws(6, length=10, batch=4, seed=0)
    shares = [EndlessSampler(length=10, batch=4, seed=0, rank=rank, world=2) for rank in range(2)]
    pairs = islice(zip(*shares, strict=False), 6)
    assert [draw for left, right in pairs for draw in left + right] == alone


def test_a_restart_continues_as_if_nothing_had_happened():
    """Resuming must see the images that an unbroken run sees, also from the middle of an epoch."""
    options = {"length": 10, "batch": 4, "seed": 7}
    assert draws(3, start=4 * 4, **options) == draws(7, **options)[4 * 4 :]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"batch": 5, "world": 2}, "5 over 2"), ({"length": 0}, "length 0"), ({"rank": 1}, "rank 1 of world 1")],
)
def test_impossible_settings_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        EndlessSampler(**{"length": 10, "batch": 4, "seed": 0, **wrong})
