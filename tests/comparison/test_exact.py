"""Exact nats of made-up pictures: every picture is there once, and equal tokens are counted."""

from collections import Counter
from math import log

import numpy as np
import pytest

from tests.comparison.made_up import results
from var_pe import settings
from var_pe.comparison.exact import check_countable, counted, pictures_of
from var_pe.comparison.page import excess_maps, floor_place, intervals
from var_pe.comparison.report import report_of
from var_pe.data.shapes import SPACE, Factors, Shapes, render
from var_pe.pyramid import Pyramid
from var_pe.stages.config import Config


def test_every_picture_is_drawn_as_the_set_draws_it():
    """One pixel beside it and its tokens could be others."""
    shapes = Shapes(40, 16, 24, "test")
    seen = 0
    for label in (0, 7):
        pixels = next(pictures_of(label, (16, 24)))
        for number, drawn in enumerate(pixels):
            colour, ground, light = np.unravel_index(number, SPACE[4:])
            factors = Factors(label, 0, 0, 0, int(colour), int(ground), int(light))
            assert np.array_equal(drawn, render(factors, 16, 24)[0])
            seen += 1
    assert seen == 2 * 8 * 8 * 4
    index = int(np.ravel_multi_index(shapes.factors(5), SPACE))
    assert Factors(*map(int, np.unravel_index(index, SPACE))) == shapes.factors(5)


def test_nats_are_those_of_counting_by_hand():
    """The whole point is that there is no estimate in them."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 3, (240, 5)).astype(np.int32)
    tokens[:, 0] = 1  # one code alone says nothing
    chosen, label = np.array([3, 100, 239]), np.arange(240) // 20
    found = counted(tokens, chosen, Pyramid.of([1, 2]))

    def count(places, number):
        rows = [(label[n], *tokens[n, places]) for n in range(240)]
        return Counter(rows)[rows[number]]

    by_level = (
        [log(20) - log(count([0], n)) for n in chosen],
        [log(count([0], n)) - log(count([0, 1, 2, 3, 4], n)) for n in chosen],
    )
    assert found["nats_by_level"] == pytest.approx([np.mean(row) for row in by_level])
    third = [log(count([0], n)) - log(count([0, 3], n)) for n in chosen]
    assert found["nats_by_place"][3] == pytest.approx(np.mean(third))
    assert found["nats_by_place"][0] == found["nats_of_all"][0] == 0
    assert found["distinct"] == len({(label[n], *tokens[n]) for n in range(240)})


def test_the_report_has_excess_in_all_by_level_and_by_place():
    """Nats of the model minus those of the same images."""
    found = results(learned=[3.0, 3.2], none=[3.5, 3.6])
    for arm in found["arms"]:
        arm["tokenizer"] = "runs/tokenizer"
    found["shared"]["exact"] = {"runs/tokenizer": {
        "pictures": 786_432, "distinct": 700_000, "nats_of_all": [2.0, 9.0], "nats_by_level": [2.0, 8.0],
        "nats_by_place": [2.0, 2.5, 2.5, 2.5, 2.5], "images": 100,
    }}  # fmt: skip
    table = next(table for table in report_of(found).tables if table.title == "Excess nats")
    # Means of two seeds, 16 and 17 nats: the tokens hold 10 of them, 12 where a level is drawn at once.
    assert table.rows[0][0] == "learned"
    assert [cell.partition(" ")[0] for cell in table.rows[0][1:]] == ["16.50", "6.50", "4.50", "1.10", "3.40"]
    assert table.rows[-1][:2] == ["the tokens, exactly", "10.00"]
    assert "costs any generator 2.000 nats" in table.notes[1]
    assert len(excess_maps(found)) == 2

    # First screen: what could still be learned, and on the line of the ranking what none can beat
    report = report_of(found)
    assert report.findings[0].startswith(
        "The tokens of an image hold 10.00 nats, counted exactly. learned needs 16."
    )
    assert "of which 4.50" in report.findings[0]
    assert "(1x1: 1.10" in report.findings[0]
    assert any(
        "The floor, the least that drawing a level at once allows, is 2.400" in note
        for note in report.ranking.notes
    )
    assert floor_place(found) < min(one.middle for one in intervals(found))
    assert excess_maps(results(learned=[3.0])) == []


def test_pictures_that_are_not_all_known_are_not_counted():
    """Mirrored or cropped ones are others."""
    check_countable(settings.load(Config, "shapes_learned.yaml"))
    for name, words in (("fashion_learned.yaml", []), ("shapes_learned.yaml", ["data.flip=true"])):
        with pytest.raises(ValueError, match=r"count_pictures needs data.source=shapes"):
            check_countable(settings.load(Config, name, words))
