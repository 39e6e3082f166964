"""Which runs a study makes, what it refuses before the first of them, and how it reads a run's costs."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from var_pe.comparison.study import chosen_pictures, compare, costs, read_log, slug, trials
from var_pe.models.vit import ClassifierConfig
from var_pe.sampling.drawing import SamplingConfig
from var_pe.settings.loading import differences
from var_pe.stages.config import Config
from var_pe.training.progress import peak_memory, reset_peak_memory

LINES = ["learned", "sinusoidal", "mixed(learned=0.7, sinusoidal=0.3)"]
CONFIG = Config(run="runs/base", tokenizer_run="runs/tokenizer")


def test_runs_of_a_study_differ_in_encoding_seed_and_folder_alone():
    """Whatever else differed would be compared as well: the tokenizer, the images' seeds, the data."""
    found = trials(CONFIG, LINES, [0, 1], Path("out"))
    assert len({trial.config.run for trial in found}) == 6
    for trial in found:
        changed = {line.partition(":")[0] for line in differences(asdict(CONFIG), asdict(trial.config))}
        assert changed <= {"run", "seed", "generator.encoding"}
        assert (trial.config.seed, trial.config.generator.encoding) == (trial.seed, trial.encoding)


def test_every_encoding_goes_first_for_some_seed():
    """The first run of a process meets a cold machine: no encoding may pay for that with every seed."""
    found = trials(CONFIG, LINES, [0, 1, 2], Path("out"))
    assert {trial.encoding for trial in found[::3]} == set(LINES)
    assert [trial.seed for trial in found] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_a_line_written_with_other_spaces_finds_the_same_run():
    """Otherwise the same command typed differently would train for hours what is there already."""
    (spaced,) = trials(CONFIG, ["mixed( learned=0.7,sinusoidal =0.3 )"], [0], Path("out"))
    (plain,) = trials(CONFIG, ["mixed(learned=0.7, sinusoidal=0.3)"], [0], Path("out"))
    assert spaced == plain


def test_folders_of_different_lines_differ():
    """Signs that a folder's name cannot bear carry meaning, and two encodings in one folder would clash."""
    lines = ["a(b=-1)", "a(b=1)", "a + b", "a(b)", "a_b", "a(b=1.0)"]
    assert len(set(map(slug, lines))) == len(lines)
    assert slug("learned") == "learned"
    assert all(set(slug(line)) <= set("abcdefghijklmnopqrstuvwxyz0123456789._") for line in lines)


def test_all_wrong_encodings_are_named_before_anything_is_trained(tmp_path):
    """A misspelt third encoding must not come to light after a night of training the first two."""
    config = replace(CONFIG, tokenizer_run=str(tmp_path / "tokenizer"))
    with pytest.raises(ValueError, match=r"sinusoidl.*mixed\(learned"):
        compare(config, ["learned", "sinusoidl", "mixed(learned=0.7"], [0], tmp_path, accelerator=None)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("encodings", "seeds", "sentence"),
    [
        (["learned", "none", "learned"], [0], "encodings must differ, got learned more than once"),
        (["mixed(learned=1,sinusoidal=1)", "mixed(learned=1, sinusoidal=1)"], [0], "encodings must differ"),
        (["learned"], [0, 1, 0], "seeds must differ, got 0 more than once"),
        (["learned"], [], "at least one encoding and one seed"),
    ],
)
def test_what_is_given_twice_or_not_at_all_is_refused(encodings, seeds, sentence):
    """A seed counted twice would halve the spread."""
    with pytest.raises(ValueError, match=sentence):
        trials(CONFIG, encodings, seeds, Path("out"))


def test_a_classifier_cannot_be_compared():
    """Its config trains no generator, and the error would come from deep inside."""
    with pytest.raises(ValueError, match="classifier section"):
        compare(
            replace(CONFIG, classifier=ClassifierConfig()), ["learned"], [0], Path("out"), accelerator=None
        )


def test_step_time_forgets_the_cold_start_and_pauses():
    """The first entry times one cold step, and validation falls into some other; neither is a step's cost."""
    rates = [1.0, 100.0, 3.0, 100.0]
    log = [
        {"step": i, "images_per_second": rate, "peak_memory_gb": 1.0 + i % 2} for i, rate in enumerate(rates)
    ]
    log += [{"step": 2, "validation/loss": 9.0}, {"step": 4, "validation/loss": 3.0}]
    assert costs(log, batch=50) == {"seconds_per_step": 0.5, "peak_memory_gb": 2.0, "validation/loss": 3.0}
    assert costs([], batch=50) == {}


def test_every_encoding_shows_the_same_seeds_class_by_class(tmp_path):
    """Pictures chosen by number, not by looks; sampling numbers images class by class."""
    sampling = SamplingConfig(images_per_class=100)
    found = chosen_pictures(tmp_path, sampling, 5, ["a", "b", "c", "d", "e"])
    assert [name for name, _ in found] == list("abcdeabcdeab")
    assert [int(file.stem) for _, file in found] == [0, 100, 200, 300, 400, 1, 101, 201, 301, 401, 2, 102]
    assert len(chosen_pictures(tmp_path, SamplingConfig(images_per_class=3), 0, ())) == 3


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
