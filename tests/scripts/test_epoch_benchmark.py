"""benchmarks/epoch.py trains models that the public code has."""

import argparse
import importlib.util
from pathlib import Path

from var_pe.interop.var.conversion import to_var
from var_pe.stages.models import build_generator, build_tokenizer

ROOT = Path(__file__).parents[2]


def test_its_models_are_those_of_the_public_code(tmp_path, monkeypatch):
    """Whatever our configs take by default, such as a tokenizer's shortcut, which the public code lacks."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    spec = importlib.util.spec_from_file_location("epoch_benchmark", ROOT / "benchmarks" / "epoch.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)

    given = argparse.Namespace(
        levels=[1, 2], dim=64, depth=1, channels=32, batch=2, epochs=1, workers=0, precision="float32"
    )
    config = benchmark.config_of(tmp_path, given)
    tokenizer = build_tokenizer(config)
    vqvae_state, var_state = to_var(tokenizer, build_generator(config, benchmark.CLASSES))
    assert vqvae_state
    assert var_state
    benchmark.importlib.import_module("public_var").check_fixed(tokenizer)
