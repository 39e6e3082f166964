"""Which runs a study makes, and what it refuses before the first of them."""

from dataclasses import asdict
from pathlib import Path

import pytest

from var_pe.comparison.trials import labels, slug, trials
from var_pe.models.kernels import Served, rows_for
from var_pe.settings.loading import differences
from var_pe.stages.config import Config
from var_pe.training.history import NUMBERS, History, StepsAsked

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
    assert {trial.encoding for trial in found[::3]} == set(labels(CONFIG, LINES))
    assert [trial.seed for trial in found] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_a_line_written_with_other_spaces_finds_the_same_run():
    """Otherwise the same command typed differently would train for hours what is there already."""
    (spaced,) = trials(CONFIG, ["mixed( learned=0.7,sinusoidal =0.3 )"], [0], Path("out"))
    (plain,) = trials(CONFIG, ["mixed(learned=0.7, sinusoidal=0.3)"], [0], Path("out"))
    assert spaced == plain


def test_a_label_says_the_scale_that_was_trained():
    """A run of years ago under the same line was trained at another scale and lies in another folder."""
    (trial,) = trials(CONFIG, ["sinusoidal"], [0], Path("out"))
    (written,) = trials(CONFIG, [trial.encoding], [0], Path("out"))
    assert trial == written
    assert trial.encoding == trial.config.generator.encoding == "sinusoidal(scale=0.0589)"
    with pytest.raises(ValueError, match=r"encodings must differ, got sinusoidal\(scale=0.0589\)"):
        trials(CONFIG, ["sinusoidal", "sinusoidal(scale=0.0589)"], [0], Path("out"))


def test_runs_of_two_rules_of_numbers_are_not_compared(tmp_path):
    """What an encoding seems to bring could be the version's; a whole study of another one stays."""
    planned = trials(CONFIG, LINES, [0], tmp_path)
    for rule, runs in ((1, planned[:1]), (1, planned[1:]), (NUMBERS, planned[:2])):
        for trial in runs:
            (trial.run / "generator").mkdir(parents=True, exist_ok=True)
            History((StepsAsked(0, 4),), numbers=rule).write(trial.run)
        if runs == planned[1:]:
            assert trials(CONFIG, LINES, [0], tmp_path) == planned
            continue
        with pytest.raises(ValueError, match=r"begun by another version.*finish the study with that version"):
            trials(CONFIG, LINES, [0], tmp_path)


def test_runs_under_two_tables_of_kernels_are_not_compared(tmp_path, monkeypatch):
    """Rounding differs with the kernels of attention; a whole study under an earlier table stays."""
    planned = trials(CONFIG, LINES, [0], tmp_path)
    earlier = rows_for("cpu") | {"cpu, 32 bits, gradients": Served(plain=7, fused=7)}
    for count, trial in enumerate(planned, 1):
        (trial.run / "generator").mkdir(parents=True)
        History((StepsAsked(0, 4),), kernels=earlier).write(trial.run)
        if count < len(planned):
            with pytest.raises(ValueError, match=r"begun with other kernels .*bits, gradients: plain up to"):
                trials(CONFIG, LINES, [0], tmp_path)
    assert trials(CONFIG, LINES, [0], tmp_path) == planned

    # Of another device there is nothing to be compared.
    History((StepsAsked(0, 4),), kernels=rows_for("cuda")).write(planned[0].run)
    assert trials(CONFIG, LINES, [0], tmp_path) == planned


def test_folders_of_different_lines_differ():
    """Signs that a folder's name cannot bear carry meaning, and two encodings in one folder would clash."""
    lines = ["a(b=-1)", "a(b=1)", "a + b", "a(b)", "a_b", "a(b=1.0)"]
    assert len(set(map(slug, lines))) == len(lines)
    assert slug("learned") == "learned"
    assert all(set(slug(line)) <= set("abcdefghijklmnopqrstuvwxyz0123456789._") for line in lines)


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
