"""benchmarks/patch_sizes.py trains and times what it says, pictures that patches do not fill included."""

from pathlib import Path

import pytest
from accelerate import Accelerator

from var_pe import settings
from var_pe.comparison.costs import trainable
from var_pe.models.vit import ViTClassifier
from var_pe.stages.config import Config
from var_pe.stages.models import load_model


@pytest.fixture
def patch_sizes(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import patch_sizes

    return patch_sizes


def config_in(folder, *more: str) -> Config:
    given = [
        *(f"run={folder}/run", f"tokenizer_run={folder}/tokenizer", "data.source=shapes"),
        *("data.height=12", "data.width=12", "data.shapes_train=16", "data.shapes_test=8"),
        *(f"classifier.{rest}" for rest in ("dim=16", "depth=1", "num_heads=2", "encoding=sinusoidal")),
        *(f"classifier_training.{rest}" for rest in ("steps=2", "batch=4", "warmup=0", "trackers=[]")),
        *(f"classifier_training.{rest}" for rest in ("preview_every=0", "validation_images=8")),
    ]
    return settings.load(Config, None, ["classifier={}", *given, *more])


def test_every_size_has_a_row_over_all_seeds(patch_sizes, tmp_path):
    """12 pixels are 3x3 patches of 4 and, padded, 2x2 of 8; a second call trains nothing."""
    config = config_in(tmp_path, "classifier.padding=end")
    given = ([4, 8], [0, 1], 2, tmp_path / "sizes", Accelerator())
    four, eight = patch_sizes.measured(config, *given)
    assert (four.tokens, eight.tokens) == (9, 4)
    assert eight.parameters - four.parameters == 3 * (8**2 - 4**2) * 16
    saved = load_model(ViTClassifier, next((tmp_path / "sizes" / "patch_4").rglob("classifier")))
    assert four.parameters == trainable(saved)  # all 12 classes of the shapes
    assert len(four.accuracies) == len(eight.accuracies) == 2
    assert "| 8 | 4 |" in patch_sizes.table([four, eight])

    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "sizes").rglob("log.jsonl")}
    assert len(written) == 4
    again = patch_sizes.measured(config, *given)
    assert [one.accuracies for one in again] == [four.accuracies, eight.accuracies]
    assert written == {path: path.stat().st_mtime_ns for path in written}


def test_sizes_that_do_not_fill_pictures_are_refused_before_anything_is_trained(patch_sizes, tmp_path):
    with pytest.raises(ValueError, match=r"patch_size must divide .* got 8 for 12x12; padding=end"):
        patch_sizes.measured(config_in(tmp_path), [4, 8], [0], 2, tmp_path / "sizes", Accelerator())
    assert not (tmp_path / "sizes").exists()
