"""Generators at sizes that they were never trained on: how they get there, and what is said of it."""

from dataclasses import replace

import pytest
import torch

from tests.comparison.made_up import results
from var_pe.comparison.engine import plan_of
from var_pe.comparison.other_sizes import is_measured, measured_at, ways_of
from var_pe.comparison.size_tables import size_tables
from var_pe.comparison.study import Study, arms_of, cells_of
from var_pe.models.tokenizer import VQTokenizer
from var_pe.stages.models import build_generator

WIDE = [[1, 2], [2, 4]]
SMALL = [
    "data.height=8",
    "data.width=8",
    "data.shapes_test=6",
    "tokenizer.levels=[1, 2]",
    "tokenizer.codebook_size=8",
    "generator.dim=16",
    "generator.depth=1",
    "generator.num_heads=2",
]


def study(tmp_path, *lines: str, **given) -> Study:
    return Study(
        config="shapes_learned.yaml",
        output=str(tmp_path),
        settings=[*SMALL, f"tokenizer_run={tmp_path / 'tokenizer'}"],
        encodings=list(lines),
        **{"other_sizes": [WIDE], **given},
    )


def test_tables_get_there_by_every_convention_and_what_follows_by_itself_once(tmp_path):
    """A sinusoid measured four times would look like four results."""
    asked = study(tmp_path, "learned", "sinusoidal", resamplings=["timm", "area"])
    table, code = (ways_of(arm.config, asked) for arm in arms_of(asked))
    assert [way.convention for way in table] == ["timm", "area"]
    assert [way.convention for way in code] == [None]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"other_sizes": [[1, 2, 4]]}, "other_sizes: learned cannot be measured there: .* has 2 levels"),
        ({"resamplings": ["bilinaer"]}, "bilinaer"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_trained(tmp_path, given, sentence):
    """The sizes are looked at last, after a night of trainings."""
    with pytest.raises(ValueError, match=sentence):
        plan_of(study(tmp_path, "learned", **given))


def test_a_trained_generator_is_measured_at_each_size_once(tmp_path):
    """At its own size it must have the loss that it has; a size that is added later repeats nothing."""
    torch.manual_seed(0)
    asked = study(tmp_path, "learned", other_sizes=[WIDE, [1, 2]], resamplings=["timm"])
    (cell,) = cells_of(asked, arms_of(asked))
    settings = cell.config.tokenizer
    tokenizer = VQTokenizer(
        channels=8, channel_multipliers=[1, 1], norm_groups=4, levels=[1, 2], codebook_size=8, patch=2,
        latent_channels=settings.latent_channels,
    ).eval()  # fmt: skip
    build_generator(cell.config, 12).save_pretrained(cell.run / "generator")

    found = measured_at(cell, asked, tokenizer, [])
    assert [(one["grids"], one["convention"]) for one in found] == [(WIDE, "timm"), ([[1, 1], [2, 2]], "")]
    assert all(len(one["by_level"]) == 2 and one["loss"] > 0 for one in found)
    assert is_measured(cell, asked, found)
    assert not is_measured(cell, asked, found[:1])
    moved = replace(cell, config=replace(cell.config, run="nowhere"))
    assert measured_at(moved, asked, tokenizer, found) == found


def test_what_is_kept_is_said_against_the_best_that_was_trained_there():
    """A loss at another size means nothing without what could be reached at it."""
    found = results(learned=[3.0, 3.1, 2.9], sinusoidal=[3.2, 3.3, 3.0], ceiling=[3.0, 3.0, 3.0])
    for arm in found["arms"]:
        arm["trained_at"] = [[[1, 1], [2, 2]]] + ([WIDE] if arm["name"] == "ceiling" else [])
    for cell in found["cells"]:
        ways = {"learned": {"timm": 1.0, "area": 0.5}, "sinusoidal": {"": 0.25}, "ceiling": {"": 0.0}}
        cell["sizes"] = [
            {"grids": WIDE, "convention": name, "loss": 2 + worse + 0.01 * cell["seed"] ** 2, "by_level": []}
            for name, worse in ways[cell["arm"]].items()
        ]
    (table,) = size_tables(found)
    assert table.title == "At 2x4 tokens: another extent (a larger scene, its things of the same size)"
    names = [row[0] for row in table.rows]
    assert names == ["ceiling", "sinusoidal", "learned, area", "learned, timm"]
    assert [row[1] for row in table.rows] == ["yes", "no", "no", "no"]
    assert table.notes[0].startswith("Of what was never trained there sinusoidal is best, 2.26")
    assert "of the resamplings of learned, area (2.5" in table.notes[0]
