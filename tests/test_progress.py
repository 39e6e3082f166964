"""What is printed of long work: the right counts in units that people read, by the main process alone."""

import pytest
import torch

from var_pe import progress
from var_pe.progress import FIRST_STEPS, Counter, StepProgress, duration, size

CPU = torch.device("cpu")


class Clock:
    """Stands for the module `time`: it goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0452, "45.2 ms"),
        (0.81, "0.81 s"),
        (119, "119 s"),
        (252, "4.2 min"),
        (3 * 3600, "3 h"),
        (60 * 3600, "2.5 days"),
    ],
)
def test_durations_are_in_the_unit_that_people_take(seconds, said):
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("number", "said"),
    [(0, "0 kB"), (1500, "1.5 kB"), (1.234e7, "12.3 MB"), (999e6, "999 MB"), (2e9, "2 GB")],
)
def test_sizes_are_decimal(number, said):
    assert size(number) == said


def test_a_counter_says_now_and_then_what_is_left(clock, capsys):
    """Soon for the first time, then every half minute, and the shares of all processes together."""
    with Counter(1000, "encoding", processes=2) as counter:
        counter.add(10)
        assert capsys.readouterr().err == ""
        clock.now += 10
        counter.add(10)
        assert capsys.readouterr().err == "encoding: 40 of 1000 images, 4/s, 4.0 minutes left\n"
        clock.now += 25
        counter.add(10)
        assert capsys.readouterr().err == ""
        clock.now += 25
        counter.add(30)
        counter.add(5)
    assert capsys.readouterr().err == "encoding: 120 of 1000 images, 2/s, 7.3 minutes left\n"


def test_a_hidden_counter_counts_and_says_nothing(clock, capsys):
    with Counter(100, "encoding", shown=False) as counter:
        clock.now += 1000
        counter.add(50)
    assert counter.count == 50
    assert capsys.readouterr().err == ""


def test_rates_are_those_since_the_last_ones(clock):
    """A validation between two entries belongs to the later one; the time left follows the present speed."""
    steps = StepProgress(range(10, 40), 8, CPU, shown=False)
    for seconds in (1, 1, 4):
        clock.now += seconds
        steps.advance()
        rates = steps.rates()
    assert rates["images_per_second"] == pytest.approx(2.0)
    assert rates["minutes_left"] == pytest.approx(27 * 4 / 60)
    assert rates["peak_memory_gb"] > 0.01


def test_the_rest_is_said_once_without_the_step_that_warms_up(clock, capsys):
    steps = StepProgress(range(100, 206), 8, CPU, shown=True)
    for number in range(20):
        clock.now += 2 if number else 60
        steps.advance()
        if steps.measured_first_steps:
            steps.say_rest(25_000_000, 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert FIRST_STEPS == 6
    assert line.startswith("the remaining 100 steps of 2 s take about 3.33 min, without validation; ")
    assert line.endswith("a checkpoint takes 25 MB of disk, 2 are kept")


def test_a_training_of_few_steps_says_nothing_of_a_rest(clock):
    steps = StepProgress(range(FIRST_STEPS), 8, CPU, shown=True)
    for _ in range(FIRST_STEPS):
        steps.advance()
        assert not steps.measured_first_steps


def test_a_line_has_the_values_of_a_step_but_for_levels(clock, capsys):
    StepProgress(range(9), 8, CPU, shown=True).say({"step": 3, "loss": 0.12345, "loss/level_2": 1.0})
    StepProgress(range(9), 8, CPU, shown=False).say({"step": 3, "loss": 0.12345})
    assert capsys.readouterr().err == "step 3/9  loss 0.1235\n"
