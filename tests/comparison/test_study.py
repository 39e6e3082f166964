"""A study's file: which runs it means, what they share, and what it is refused for."""

from dataclasses import asdict
from pathlib import Path

import pytest

from var_pe import settings
from var_pe.comparison.study import Study, arms_of, cells_of
from var_pe.settings.loading import CONFIGS, differences

SHAPES = {"config": "shapes_learned.yaml", "output": "out/study"}


def test_cells_differ_in_their_axes_seed_and_folder_alone():
    """Whatever else differed would be compared as well: the tokenizer, the images' seeds, the data."""
    axes = {"encodings": ["learned", "sinusoidal"], "axes": [["generator.depth", 2, 4]]}
    study = Study(**SHAPES, **axes, seeds=[0, 1])
    arms = arms_of(study)
    assert [arm.place[1] for arm in arms[:2]] == ["generator.depth=2", "generator.depth=4"]
    assert arms[2].name == "sinusoidal(scale=0.0589), generator.depth=2"
    cells = cells_of(study, arms)
    assert len({cell.config.run for cell in cells}) == 8
    for cell in cells:
        changed = differences(asdict(cells[0].config), asdict(cell.config))
        assert {line.partition(":")[0] for line in changed} <= {
            "run",
            "seed",
            "generator.encoding",
            "generator.depth",
        }


def test_a_line_written_with_other_spaces_finds_the_same_run():
    """Otherwise the same study typed differently would train for hours what is there already."""
    lines = ["mixed( learned=0.7,sinusoidal =0.3 )", "mixed(learned=0.7, sinusoidal=0.3)"]
    runs = []
    for line in lines:
        study = Study(**SHAPES, encodings=[line])
        runs.append([cell.run for cell in cells_of(study, arms_of(study))])
    assert runs[0] == runs[1]
    with pytest.raises(ValueError, match="encodings must differ"):
        arms_of(Study(**SHAPES, encodings=lines))


def test_tokenizers_of_other_settings_have_folders_of_their_own_and_parts_of_the_data_share_one():
    """A tokenizer that is trained over another one's folder is refused; one for each limit is a waste."""
    axes = {"tokenizer_seeds": [0, 1], "axes": [["data.limit", 100, "null"]]}
    arms = arms_of(Study(**SHAPES, encodings=["learned"], **axes))
    folders = [arm.config.tokenizer_run for arm in arms]
    assert folders[0] == folders[1] == "runs/shapes_tokenizer"
    assert folders[2] == folders[3] != folders[0]
    assert [arm.config.data.limit for arm in arms] == [100, None, 100, None]
    assert {arm.tokenizer_config.data.limit for arm in arms} == {None}


def test_arms_that_are_written_out_have_their_own_seeds():
    """Eight seeds for what matters, three for the rest."""
    study = Study(
        **SHAPES,
        arms=[["a table", "generator.encoding=learned"]],
        further_arms=[["none at all", "generator.encoding=none"]],
        further_seeds=2,
        seeds=[0, 1, 2],
    )
    arms = arms_of(study)
    assert [(arm.name, arm.seeds) for arm in arms] == [("a table", (0, 1, 2)), ("none at all", (0, 1))]
    assert len(cells_of(study, arms)) == 5


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "either axes .* or arms"),
        ({"encodings": ["learned"], "arms": [["a", "seed=1"]]}, "either axes .* or arms"),
        ({"encodings": ["learned"], "seeds": [0, 0]}, "seeds must differ, got 0 more than once"),
        ({"encodings": ["learnt", "sinusoidl"]}, r"'learnt'.*'sinusoidl'"),
        ({"encodings": ["learned"], "axes": [["generator.depht", 1]]}, "generator.depht"),
        ({"encodings": ["learned"], "axes": [["seed", 0, 1]]}, "sets seed or run"),
        ({"arms": [["a"], ["b", "run=elsewhere"]]}, "b sets seed or run"),
        ({"encodings": ["learned"], "further_arms": [["a"]], "further_seeds": 1}, "this study has axes"),
        ({"arms": [["", "generator.depth=2"]]}, "empty name"),
        ({"encodings": ["learned", "none"], "handicapped": "peg"}, "'peg' is not one of the arms"),
        ({"encodings": ["learned"], "learning_rates": [1e-3], "seeds": [1000]}, "sweep_seed=1000"),
        ({"config": "fashion_vit.yaml", "encodings": ["learned"]}, "classifier section"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_sentence(given, sentence):
    """Before anything is trained: a misspelt third arm must not come to light after a night."""
    with pytest.raises(ValueError, match=sentence):
        arms_of(Study(**{**SHAPES, **given}))


@pytest.mark.parametrize("file", sorted((CONFIGS / "studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_study_here_has_the_cells_that_its_comment_says(file):
    """The comment is what a person plans a night by."""
    study = settings.load(Study, file)
    cells = cells_of(study, arms_of(study))
    assert f"{len(cells)} cells" in file.read_text().partition("config:")[0]
    assert Path(study.output) == Path("runs/studies") / file.stem
