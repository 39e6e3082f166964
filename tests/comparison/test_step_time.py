"""Timing in turns: what the ratios hold against what."""

import importlib.util
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from var_pe import settings
from var_pe.comparison.step_time import step_times
from var_pe.comparison.trials import check_encodings
from var_pe.encodings import REGISTRY
from var_pe.stages.config import Config


def test_a_slower_step_is_told_by_its_factor_and_the_null_pair_by_one(monkeypatch):
    """Steps that take a known time on a clock of our own, which slows down for everyone half-way."""
    clock, turns = [0.0], []
    costs = {"none": 2.0, "slow": 6.0}

    def run(line):
        turns.append(line)
        clock[0] += costs[line] * (10 if len(turns) > 15 else 1)

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    found = step_times(["slow"], lambda line: lambda: run(line), rounds=9, warmup=1)
    assert [row.encoding for row in found] == ["none", "none", "slow"]
    assert [row.ratio for row in found] == pytest.approx([1, 1, 3])
    assert found[2].low == found[2].high == pytest.approx(3)
    assert found[2].rounds == 9


def test_every_model_is_first_in_some_round():
    """Whoever always followed the same model would always find its data in the cache."""
    order = []
    step_times(["a", "b"], lambda line: lambda: order.append(line), rounds=4, warmup=0)
    assert {tuple(order[i : i + 2]) for i in range(0, 16, 4)} == {
        ("none", "none"),
        ("none", "a"),
        ("a", "b"),
        ("b", "none"),
    }


TINY = ["dim=16", "depth=1", "num_heads=2"]
STEPPED = [
    ("fashion_learned.yaml", [*(f"generator.{line}" for line in TINY), "generator_training.batch=2"]),
    ("shapes_vit.yaml", [*(f"classifier.{line}" for line in TINY), "classifier_training.batch=2"]),
]


@pytest.fixture
def benchmark(monkeypatch):
    path = Path(__file__).parents[2] / "benchmarks" / "encoding_costs.py"
    monkeypatch.syspath_prepend(path.parent)
    spec = importlib.util.spec_from_file_location("benchmark", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    return benchmark


def test_the_benchmark_takes_every_encoding_by_itself(benchmark):
    """Some are no line without what they hold."""
    config = settings.load(Config, "cifar_learned.yaml", [])
    check_encodings(config, benchmark.every_encoding())
    assert len(benchmark.every_encoding()) == len(REGISTRY)


@pytest.mark.parametrize(("name", "tiny"), STEPPED)
def test_the_benchmark_steps_what_a_config_trains(name, tiny, benchmark):
    """A generator for one config, a classifier for the other; a step that learned nothing would be none."""
    step = benchmark.step_of(settings.load(Config, name, tiny))
    model = next(cell.cell_contents for cell in step.__closure__ if isinstance(cell.cell_contents, nn.Module))
    assert type(model).__name__ == ("ViTClassifier" if "vit" in name else "VARTransformer")
    before = [parameter.clone() for parameter in model.parameters()]
    step()
    assert not all(map(torch.equal, before, model.parameters()))
