"""What a study is said to take."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from var_pe.comparison import estimate
from var_pe.comparison.engine import plan_of
from var_pe.comparison.study import Study
from var_pe.stages.timing import Cost


def test_the_search_for_learning_rates_is_part_of_the_time(tmp_path, monkeypatch):
    """Left out, a night that was planned by it ends with a study that is not done."""
    costs = [Cost("generator", 1000.0, ""), Cost("drawing", 10.0, "")]
    monkeypatch.setattr(estimate, "time_stages", lambda *_: costs)
    monkeypatch.setattr(estimate, "_scoring", lambda *_: 0.0)
    accelerator = SimpleNamespace(device=torch.device("cpu"))
    study = Study(
        config="shapes_learned.yaml",
        output=str(tmp_path),
        settings=["generator_training.steps=100", f"tokenizer_run={tmp_path / 'tokenizer'}"],
        encodings=["learned", "none"],
    )
    plan = plan_of(study)
    assert "2 cells like learned" in estimate.timed_lines(plan, 1, accelerator)[0]
    assert "choosing" not in estimate.timed_lines(plan, 1, accelerator)[0]

    swept = replace(plan, study=replace(study, learning_rates=[1e-3, 3e-3], sweep_steps=50, guidances=[1.0]))
    cells = swept.cells
    assert estimate._choosing(swept, cells, 1000.0, 10.0) == pytest.approx(2 * (2 * 0.5 * 1000 + 10))
    lines = estimate.timed_lines(swept, 1, accelerator)
    assert "33.7 min of choosing learning rates and guidance scales" in lines[0]
    assert lines[-1] == "timed: not counted: check_extractors"
