"""benchmarks/training.py and its siblings measure what they say, in tiny sizes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from var_pe.models.kernels import served_by

ROOT = Path(__file__).parents[2]


@pytest.fixture
def training(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import training

    return training


def called(script, *words):
    """What a benchmark prints in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, str(ROOT / "benchmarks" / script), *map(str, words)]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_operations_are_those_that_torch_counts(training):
    """All but the scores of hidden pairs, which plain products compute in vain."""
    size = training.SIZES["tiny"]
    generator = training.build(size, "none")
    step = training.our_step(generator, training.random_batch(size, "cpu"), "float32")
    with served_by("plain"), FlopCounterMode(display=False) as counter:
        step()

    # The coarsest level has no input, and inputs need no gradient.
    pairs = size.tokens**2 - sum(n**2 * sum(m**2 for m in range(1, n + 1)) for n in size.levels)
    hidden = 12 * size.batch * size.depth * size.dim * pairs
    unneeded = 2 * size.batch * size.dim * (size.latent_channels * (size.tokens + 2))
    counted = training.operations_of_step(size) + hidden - unneeded
    assert counter.get_total_flops() == pytest.approx(counted, rel=1e-9)


def test_every_contender_takes_part(training, monkeypatch, tmp_path, capsys):
    words = ["--sizes", "tiny", "--rounds", "2", "--precision", "float32", "--attention", "plain", "fused"]
    words += ["--no-memory", "--device", "cpu", "--json", str(tmp_path / "found.json")]
    monkeypatch.setattr(sys, "argv", ["training.py", *words])
    training.main()

    found = json.loads((tmp_path / "found.json").read_text())["tiny"]["precision"]["float32"]
    assert set(found) == {"var_pe, none, plain", "var_pe, none, fused", "matrix product"}
    assert all(measured["share_of_rate"] > 0 for measured in found.values())
    assert "| var_pe, none, fused |" in capsys.readouterr().out


def test_a_contender_that_fails_stops_no_other_one(training, monkeypatch, capsys):
    """One that runs out of memory, say, must not cost the numbers of the others."""

    def compiled(generator, how):
        if how == "whole":
            raise RuntimeError("no compiler for this\nand more")
        return generator

    monkeypatch.setattr(training, "compiled", compiled)
    words = ["--sizes", "tiny", "--rounds", "2", "--precision", "float32", "--compile", "whole", "none"]
    monkeypatch.setattr(sys, "argv", ["training.py", *words, "--no-memory", "--device", "cpu"])
    training.main()
    said = capsys.readouterr().out
    assert "| var_pe, whole, rule | RuntimeError: no compiler for this |" in said
    assert "| var_pe, none, rule | " in said


@pytest.mark.slow
def test_a_contender_has_a_process_for_its_memory():
    """In one process the second would reuse what the first left behind."""
    said = called(
        "training.py", "--sizes", "tiny", "--precision", "float32", "--memory-of", "var_pe, none, rule"
    )
    found = json.loads(said.splitlines()[-1])
    assert 0 <= found["step"] < found["peak"]


def test_a_reference_with_another_loss_is_refused(training, monkeypatch, capsys):
    """Two models that compute different things cannot be compared."""
    size = training.SIZES["tiny"]

    class Other(torch.nn.Module):
        def forward(self, labels_B, inputs_BLZ):
            return torch.zeros(len(labels_B), size.tokens, size.codes)

    monkeypatch.setattr("steps.public_model", lambda generator, given: Other())
    monkeypatch.setattr(sys, "argv", ["training.py", "--sizes", "tiny", "--reference", str(ROOT)])
    with pytest.raises(SystemExit, match="2"):
        training.main()
    assert "the same weights give a loss of" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_take_turns_with_one(tmp_path):
    said = called("processes.py", "--sizes", "tiny", "--rounds", "2", "--json", tmp_path / "found.json")
    assert "times as fast" in said
    found = json.loads((tmp_path / "found.json").read_text())["tiny"]
    assert len(found["one"]) == len(found["two"]) == 2


@pytest.mark.slow
def test_memory_is_kept_in_one_of_two_processes(tmp_path):
    """At 30 tokens and 256 images, where tensors are large."""
    words = ["--sizes", "30", "--decoded", "--rounds", "1", "--json", tmp_path / "found.json"]
    assert "page faults" in called("memory.py", *words)
    found = json.loads((tmp_path / "found.json").read_text())["steps"]["30"]
    assert found["kept faults"][0] < found["returned faults"][0] / 4


@pytest.mark.slow
def test_epochs_count_the_token_cache(tmp_path):
    tiny = [
        "--images",
        "16",
        "--levels",
        "1",
        "2",
        "--batch",
        "8",
        "--dim",
        "64",
        "--depth",
        "1",
        "--epochs",
        "1",
    ]
    said = called("epoch.py", *tiny, "--device", "cpu", "--json", tmp_path / "found.json")
    assert "of which" in said
    found = json.loads((tmp_path / "found.json").read_text())
    assert 0 < found["token cache"] < found["var_pe"]


@pytest.mark.skipif(shutil.which("timeout") is None, reason="the script limits its lines by GNU's timeout")
def test_lines_of_the_gpu_script_that_fail_or_are_not_reached_are_named(tmp_path):
    """One run on a borrowed GPU must not be lost to one line."""

    def found_in(seconds, **variables):
        environment = {**os.environ, "TRY": "1", "PYTHON": sys.executable, **variables}
        script = str(ROOT / "benchmarks" / "gpu.sh")
        subprocess.run(["bash", script, str(tmp_path), str(seconds)], env=environment, check=True)
        return json.loads((tmp_path / "gpu.json").read_text())

    broken = tmp_path / "python"  # one for which no benchmark runs
    broken.write_text(f'#!/bin/sh\ncase "$1" in benchmarks*) exit 9;; esac\nexec {sys.executable} "$@"\n')
    broken.chmod(0o755)
    (line,) = found_in(60, ONLY="step", PYTHON=str(broken))["lines"]
    assert (line["name"], line["ended"], line["found"]) == ("step", "with status 9", None)
    assert found_in(5, ONLY="tests encodings") == {"lines": [], "not reached": ["tests", "encodings"]}
