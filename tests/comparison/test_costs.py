"""How a run's costs are read off its log."""

import pytest
import torch

from var_pe.comparison.costs import costs, steadiness
from var_pe.processes import peak_memory, reset_peak_memory
from var_pe.training.log import read_log


def test_step_time_forgets_the_cold_start_and_pauses():
    """The first entry times one cold step, and validation falls into some other; neither is a step's cost."""
    rates = [1.0, 100.0, 3.0, 100.0]
    log = [
        {"step": i, "images_per_second": rate, "peak_memory_gb": 1.0 + i % 2} for i, rate in enumerate(rates)
    ]
    log += [{"step": 2, "validation/loss": 9.0}, {"step": 4, "validation/loss": 3.0}]
    assert costs(log, batch=50) == {"seconds_per_step": 0.5, "peak_memory_gb": 2.0, "validation/loss": 3.0}
    assert costs([], batch=50) == {}


def test_a_log_is_read_line_by_line(tmp_path):
    """The plots and costs stand on it."""
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')
    assert [entry["loss"] for entry in read_log(tmp_path / "log.jsonl")] == [2.0, 1.0]


def test_the_peak_of_one_training_is_not_that_of_the_one_before():
    """Runs of a study share a process: without a reset each would have the peak of the hungriest so far."""
    cpu = torch.device("cpu")
    if not reset_peak_memory(cpu):
        pytest.skip("this system cannot reset the peak")
    before = peak_memory(cpu)
    torch.ones(100_000_000, dtype=torch.uint8)
    high = peak_memory(cpu)
    reset_peak_memory(cpu)
    assert high - before > 90e6
    assert high - peak_memory(cpu) > 90e6


def test_a_spike_is_a_loss_far_above_those_before():
    """Claims of stability are about these; the noise of every training is not a spike."""
    losses = [3.0 + 0.01 * (-1) ** step for step in range(30)]
    quiet = [{"step": step, "loss": loss, "grad_norm": 1.0} for step, loss in enumerate(losses)]
    assert steadiness(quiet) == {"loss_spikes": 0, "grad_norm_median": 1.0, "grad_norm_largest": 1.0}
    wild = [entry | {"loss": 4.0, "grad_norm": 9.0} if entry["step"] == 20 else entry for entry in quiet]
    assert steadiness(wild)["loss_spikes"] == 1
    assert steadiness(wild)["grad_norm_largest"] == 9.0
