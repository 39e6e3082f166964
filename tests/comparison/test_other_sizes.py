"""Generators at sizes that they were never trained on: how they get there, and what is said of it."""

from dataclasses import replace

import pytest
import torch

from tests.comparison.made_up import results
from var_pe.comparison.cells import rests_on
from var_pe.comparison.engine import plan_of
from var_pe.comparison.other_sizes import is_measured, measured_at, ways_of
from var_pe.comparison.report import report_of
from var_pe.comparison.size_tables import size_tables
from var_pe.comparison.study import Study, arms_of, cells_of
from var_pe.evaluation.features import EvaluationConfig
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


def test_waves_are_measured_as_they_are_and_as_they_are_remapped(tmp_path):
    asked = study(tmp_path, "rope", "rope(unit=image)", "learned + rope", remaps=["parts", "levels"])
    cells, image, table = (ways_of(arm.config, asked) for arm in arms_of(asked))
    assert [way.name for way in cells] == ["", "remap=parts", "remap=levels"]
    assert [way.name for way in image] == [""]
    assert [way.name for way in table] == ["timm", "timm, remap=parts", "timm, remap=levels"]
    (arm,) = arms_of(study(tmp_path, "rope", remaps=["levels"]))
    there = replace(arm.config.generator_training, pyramids=[[1, 2], WIDE])
    assert [way.name for way in ways_of(replace(arm.config, generator_training=there), asked)] == [""]


@pytest.mark.parametrize(
    ("line", "given", "sentence"),
    [
        (
            "rope(jitter=1.5)",
            {"remaps": ["levels"]},
            "shift, jitter and rescale are drawn once for all tokens",
        ),
        ("learned", {"remaps": ["levels"]}, "no arm has rope in cells"),
        ("rope", {"remaps": ["levels", "levels"]}, "each is named once"),
        ("rope", {"remaps": ["levels"], "other_sizes": []}, "ways to measure at other_sizes, got"),
    ],
)
def test_remaps_that_cannot_be_measured_are_refused(tmp_path, line, given, sentence):
    with pytest.raises(ValueError, match=sentence):
        plan_of(study(tmp_path, line, **given))


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
    arms = ("learned", "sinusoidal", "none", "ceiling")
    found = results(**{name: [3.0, 3.1, 2.9] for name in arms})
    for arm in found["arms"]:
        arm["trained_at"] = [[[1, 1], [2, 2]]] + ([WIDE] if arm["name"] == "ceiling" else [])
    for cell in found["cells"]:
        ways = {
            "learned": {"timm": 1.0, "area": 0.4}, "sinusoidal": {"": 0.24}, "none": {"": 0.8},
            "ceiling": {"": 0.0},
        }  # fmt: skip
        cell["sizes"] = [
            {"grids": WIDE, "convention": name, "loss": 2 + worse + 0.01 * cell["seed"] ** 2, "by_level": []}
            for name, worse in ways[cell["arm"]].items()
        ]
    (table,) = size_tables(found)
    assert table.title == "At 2x4 tokens, another extent (a larger scene, its things of the same size)"
    names = [row[0] for row in table.rows]
    assert names == ["ceiling", "sinusoidal", "learned by area", "none", "learned by timm"]
    assert [row[1] for row in table.rows] == ["yes", "no", "no", "no", "no"]

    # Of the 0.8 between no positions and the ceiling
    shares = [row[-1].partition(" ")[0] for row in table.rows]
    assert shares == ["", "70.0", "50.0", "0.0", "-25.0"]
    report = report_of(found)
    assert report.findings[0] == table.notes[0]
    said = report.findings[0]
    assert said.startswith("Never trained at 2x4 tokens, another extent")
    assert "best is sinusoidal (2.257 nats a token, keeping 70.0 ± 0.0 %), +0.24" in said
    assert "of the 2 ways of learned, best is area (50.0 ± 0.0 %)" in said
    assert "worst timm (-25.0 ± 0.0 %)" in said

    # The ceiling was trained there: to take it would be no advice for who trains at one size.
    own, with_ceiling, there = report.guide
    assert "ceiling" not in own
    assert with_ceiling.startswith("at 2x4 tokens, another extent")
    assert "ceiling has the best mean, 2.017" in with_ceiling
    assert there.startswith("at 2x4 tokens, another extent")
    assert ", if only 2x2 tokens can be trained: " in there
    assert "ceiling" not in there
    assert "learned by area" in there
    assert "learned by timm" not in there
    assert not report.answer[0].startswith("ceiling")

    # It had more steps, too, and is not said to be better for its encoding.
    for cell in found["cells"]:
        cell["values"]["validation/loss"] -= cell["arm"] == "ceiling"
    (_, differ) = report_of(found).answer
    more = "(1 more with arms that were trained at further sizes, too)"
    assert differ == f"None of 2 comparisons with learned {more} shows a difference beyond chance."

    # Without a generator that has no positions nothing says how much there was to keep.
    for arm in found["arms"]:
        arm["encoding"] = "sinusoidal"
    assert size_tables(found)[0].header[-1] == "p"


def test_what_a_result_rests_on_is_named_as_before_there_were_remaps(tmp_path):
    """Or every finished study would be drawn and scored again."""
    asked = study(tmp_path, "rope")
    (cell,) = cells_of(asked, arms_of(asked))
    build_generator(cell.config, 12).save_pretrained(cell.run / "generator")
    cell = replace(cell, config=replace(cell.config, evaluation=EvaluationConfig(features=[])))
    assert "remap" not in rests_on(cell, asked)["sampling"]
    remapped = replace(cell.config, sampling=replace(cell.config.sampling, remap="levels"))
    assert rests_on(replace(cell, config=remapped), asked)["sampling"]["remap"] == "levels"
