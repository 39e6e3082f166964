"""scripts/compare.py on tiny runs: it reports, goes on where it was, and reuses what is finished."""

import json
from pathlib import Path

import pytest

from var_pe.settings.command_line import overrides_first

SCRIPTS = Path(__file__).parents[2] / "scripts"
TINY = [
    "data.shapes_train=64", "data.shapes_test=48", "tokenizer.channels=16", "tokenizer.codebook_size=16",
    "tokenizer_training.steps=1", "tokenizer_training.batch=8", "tokenizer_training.validation_images=8",
    "generator.dim=24", "generator.depth=1", "generator.num_heads=2", "generator_training.steps=3",
    "generator_training.batch=8", "generator_training.log_every=1", "generator_training.validation_images=8",
    "generator_training.trackers=[]", "tokenizer_training.trackers=[]", "sampling.images_per_class=1",
]  # fmt: skip


@pytest.fixture
def compare(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from compare import main

    return main


def test_settings_may_follow_the_seeds():
    """argparse would read the documented order `--seeds 0 1 key=value` as a third seed."""
    argv = ["--encodings", "mixed(learned=0.7, none=0.3)", "--seeds", "0", "1", "run=x", "data.limit=3"]
    assert overrides_first(argv) == ["run=x", "data.limit=3", *argv[:5]]


def test_a_comparison_reports_and_a_second_call_reuses_every_run(compare, tmp_path, capsys):
    """An interrupted comparison goes on by the same command; a seed added later costs that seed alone."""
    what = ["--config", "shapes_learned", "--encodings", "learned", "none", "--output", str(tmp_path / "out")]
    settings = [f"tokenizer_run={tmp_path / 'tokenizer'}", *TINY]
    compare([*what, "--seeds", "0", *settings])
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    scores = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("scores.json")}
    capsys.readouterr()
    compare([*what, "--seeds", "0", "1", *settings])
    assert capsys.readouterr().out.count("training the") == 2
    assert all(path.stat().st_mtime_ns == when for path, when in (made | scores).items())
    read = json.loads((tmp_path / "out/comparison.json").read_text())
    assert [(run["encoding"], run["seed"]) for run in read["runs"]] == [
        ("learned", 0), ("learned", 1), ("none", 0), ("none", 1),
    ]  # fmt: skip
    assert read["table"]["none"]["encoding_parameters"]["mean"] == 0
    assert read["table"]["learned"]["encoding_parameters"]["mean"] == 30 * 24
    table = read["table"]["learned"]
    assert {
        "validation/loss",
        "seconds_per_step",
        "peak_memory_gb",
        "recall_efficientnet_lite0",
    } <= table.keys()
