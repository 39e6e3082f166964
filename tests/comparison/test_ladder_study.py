"""Ladders compared at equal time: which there are, and that a row is trained, measured and kept."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from tests.runs import TINY
from var_pe import settings
from var_pe.comparison.ladder_study import (
    Ladder,
    Minutes,
    check_judge,
    config_of,
    ladders_for,
    measured_row,
    parse_ladder,
    write_study,
)
from var_pe.stages.config import Config
from var_pe.stages.models import build_tokenizer

QUICK = ["steps=1", "batch=8", "validation_images=8", "trackers=[]", "precision=float32"]


@pytest.fixture
def tiny(tmp_path) -> Config:
    quick = [f"{kind}_training.{rule}" for kind in ("tokenizer", "generator") for rule in QUICK]
    data = ["data.source=shapes", "data.shapes_train=16", "data.shapes_test=24"]
    folders = [f"run={tmp_path / 'run'}", f"tokenizer_run={tmp_path / 'tokenizer'}"]
    return settings.load(Config, None, [*TINY, *quick, *data, *folders])


@pytest.mark.parametrize(("file", "side"), [("fashion.yaml", 32), ("clipart.yaml", 48)])
def test_eight_rows_of_14_to_260_tokens_fit_the_images(file, side, tmp_path):
    config = settings.load(Config, file)
    ladders = ladders_for(config)
    tokens = [ladder.tokens for ladder in ladders]
    assert len(tokens) == len(set(ladders)) == 8
    assert 14 <= tokens[0] < tokens[-1] <= 260
    for ladder in ladders:
        assert parse_ladder(str(ladder)) == ladder
        of_row = config_of(config, ladder, tmp_path)
        widths = of_row.tokenizer.channel_multipliers
        assert of_row.tokenizer.patch * 2 ** (len(widths) - 1) * ladder.levels[-1] == side
        assert widths[-1] == config.tokenizer.channel_multipliers[-1]
    with torch.device("meta"):
        tokenizer = build_tokenizer(config)
    own = Ladder(tuple(h for h, _ in tokenizer.pyramid.grids), tokenizer.downsampling)
    assert own in ladders
    assert config_of(config, own, tmp_path).tokenizer == config.tokenizer


def test_a_ladder_that_does_not_fit_is_refused(tiny, tmp_path):
    with pytest.raises(ValueError, match="a row is LEVELS_by_FACTOR"):
        parse_ladder("1-2-4/8")
    with pytest.raises(ValueError, match=r"1-3_by_8: the finest level, 3, times the factor, 8, must be"):
        config_of(tiny, parse_ladder("1-3_by_8"), tmp_path)
    larger = replace(tiny, data=replace(tiny.data, height=24, width=24))
    with pytest.raises(ValueError, match=r"the factor must be tokenizer.patch=1 or that times 2, .* got 6"):
        config_of(larger, Ladder((4,), 6), tmp_path)
    # Whether the config's own ladder fits them does not matter to the others.
    assert config_of(larger, Ladder((3,), 8), tmp_path).tokenizer.downsampling == 8


def test_a_judge_that_could_not_score_is_refused_before_anything_is_trained(tiny, tmp_path, make_vit):
    """Else it would be found at the end of the first row's minutes."""
    judges = {}
    for side in (16, 32):
        judges[side] = str(tmp_path / f"vit_{side}")
        make_vit(image_size=(side, side), patch_size=8).save_pretrained(Path(judges[side]) / "classifier")
    check_judge(tiny, judges[16])
    with pytest.raises(ValueError, match=r"--judge .*vit_32 cannot look at these images: vit_32: "):
        check_judge(tiny, judges[32])
    with pytest.raises(ValueError, match="--judge shapes reads shapes and measures no distance"):
        check_judge(tiny, "shapes")

    against = replace(tiny.tokenizer_training.perceptual, weight=1.0, network=judges[16])
    trained = replace(tiny, tokenizer_training=replace(tiny.tokenizer_training, perceptual=against))
    with pytest.raises(ValueError, match="cannot judge tokenizers that are trained against its network"):
        check_judge(trained, judges[16])


def test_a_row_is_trained_for_its_minutes_measured_and_kept(tiny, tmp_path):
    """The steps are what was timed; a second call trains and scores nothing, and another time is refused."""
    ladder, minutes = parse_ladder("1-2_by_8"), Minutes(0.01, 0.005)
    output = tmp_path / "ladders"
    row = measured_row(tiny, ladder, minutes, "efficientnet_lite1", output, Accelerator())
    assert (row.tokens, len(row.usage), row.compared) == (5, 2, 12)
    assert 0 < row.bits <= 5 * 4
    assert row.distance > 0
    assert row.nats > 0
    assert row.hue_error is not None

    planned = json.loads((output / "1-2_by_8" / "tokenizer" / "steps.json").read_text())["planned"]
    assert row.steps == max(1, round(0.6 / planned["seconds_of_a_step"]))

    table = write_study(tiny, minutes, "efficientnet_lite1", output)
    assert "| 1-2 | 8x | 5 |" in table
    assert json.loads((output / "ladders.json").read_text())["rows"][0]["psnr"] == row.psnr

    changed = {path: path.stat().st_mtime_ns for path in Path(output).rglob("*") if path.is_file()}
    assert measured_row(tiny, ladder, minutes, "efficientnet_lite1", output, Accelerator()) == row
    for path in ("row.json", "tokenizer/metrics.json", "tokenizer/log.jsonl", "generator/log.jsonl"):
        file = output / "1-2_by_8" / path
        assert file.stat().st_mtime_ns == changed[file]
    with pytest.raises(ValueError, match=r"planned for 0.01 minutes of training, not 0.02"):
        measured_row(tiny, ladder, Minutes(0.02, 0), "efficientnet_lite1", output, Accelerator())
