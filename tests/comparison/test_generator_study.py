"""The study of generators: what it refuses before any training, which pictures it shows."""

from dataclasses import replace
from pathlib import Path

import pytest

from var_pe.comparison.generator_study import chosen_pictures, compare
from var_pe.models.vit import ClassifierConfig
from var_pe.sampling.config import SamplingConfig
from var_pe.stages.config import Config

CONFIG = Config(run="runs/base", tokenizer_run="runs/tokenizer")


def test_all_wrong_encodings_are_named_before_anything_is_trained(tmp_path):
    """A misspelt third encoding must not come to light after a night of training the first two."""
    config = replace(CONFIG, tokenizer_run=str(tmp_path / "tokenizer"))
    with pytest.raises(ValueError, match=r"sinusoidl.*mixed\(learned"):
        compare(config, ["learned", "sinusoidl", "mixed(learned=0.7"], [0], tmp_path, accelerator=None)
    assert not any(tmp_path.iterdir())


def test_a_classifier_cannot_be_compared():
    """Its config trains no generator, and the error would come from deep inside."""
    with pytest.raises(ValueError, match="classifier section"):
        compare(
            replace(CONFIG, classifier=ClassifierConfig()), ["learned"], [0], Path("out"), accelerator=None
        )


def test_every_encoding_shows_the_same_seeds_class_by_class(tmp_path):
    """Pictures chosen by number, not by looks; sampling numbers images class by class."""
    sampling = SamplingConfig(images_per_class=100)
    found = chosen_pictures(tmp_path, sampling, 5, ["a", "b", "c", "d", "e"])
    assert [name for name, _ in found] == list("abcdeabcdeab")
    assert [int(file.stem) for _, file in found] == [0, 100, 200, 300, 400, 1, 101, 201, 301, 401, 2, 102]
    assert len(chosen_pictures(tmp_path, SamplingConfig(images_per_class=3), 0, ())) == 3
