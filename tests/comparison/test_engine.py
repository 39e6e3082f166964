"""What the engine makes of the processes of cells, however they end."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from var_pe.comparison import cells
from var_pe.comparison.cells import config_of_drawn
from var_pe.comparison.engine import (
    TAKEN,
    Plan,
    attempt,
    failure_of,
    had_own_process,
    held,
    note_process,
    plan_of,
)
from var_pe.comparison.gathering import flattered
from var_pe.comparison.pool import Pool, own_environment, own_first
from var_pe.comparison.study import Study, arms_of
from var_pe.comparison.sweep import kept_choice, unusual, with_chosen
from var_pe.files import write_json, write_text
from var_pe.models.tokenizer import VQTokenizer
from var_pe.sampling.png import write_png
from var_pe.settings import to_yaml
from var_pe.settings.loading import CONFIGS
from var_pe.stages.config import settled_config
from var_pe.stages.drawn_images import DrawnImages
from var_pe.training.history import History, StepsAsked


@pytest.fixture
def plan(tmp_path):
    study = Study(config="shapes_learned.yaml", output=str(tmp_path), encodings=["learned"], threads=3)
    return Plan(study, [], [])


def ended(plan, code: str) -> None:
    """Two processes of cells that run this and end."""
    Pool(plan, [sys.executable, "-c", code], {}, jobs=2).run(["a", "b"], done=lambda key: None)


def test_a_process_that_was_killed_is_recorded_with_what_it_was_killed_by(plan):
    """Whoever finds a hole in a table the next morning must find the reason beside it."""
    ended(plan, "import os, signal; print('last words', flush=True); os.kill(os.getpid(), signal.SIGKILL)")
    for key in ("a", "b"):
        assert "ended by SIGKILL (perhaps memory ran out)" in failure_of(plan, key)
        assert (plan.output / "cells" / f"{key}.txt").read_text() == "last words\n"


def test_a_cell_of_another_process_and_one_that_is_done_are_no_failures(plan):
    """Two calls of one study share the work."""
    ended(plan, "pass")
    ended(plan, f"raise SystemExit({TAKEN})")
    assert failure_of(plan, "a") is None


def test_a_cell_that_was_stopped_stops_the_study_and_has_not_failed(plan):
    """SIGTERM saves: the same command goes on, and nothing is to be tried again."""
    with pytest.raises(SystemExit) as stopped:
        ended(plan, "raise SystemExit(143)")
    assert stopped.value.code == 143
    assert failure_of(plan, "a") is None


def test_processes_of_a_launcher_begin_with_shares_of_their_own(plan, monkeypatch):
    """In one order each would start a process for a cell only to find that another one has it."""
    keys = ["a", "b", "c", "d", "e"]
    assert own_first(keys) == keys
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert own_first(keys) == ["b", "d", "a", "c", "e"]

    ended = []
    pool = Pool(plan, [sys.executable, "-c", "pass"], {}, jobs=1)
    pool.run(["a", "b"], done=ended.append, skip=lambda key: key == "a")
    assert ended == ["a", "b"]
    assert not (plan.output / "cells" / "a.txt").exists()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"guidances": [1.5], "settings": ["evaluation.features=[]"]}, "learned has none there"),
        ({"judge": "runs/nobody"}, "judge=runs/nobody is not the folder of a classifier's run"),
        ({"judge": "a", "settings": ["evaluation.features=[a]"]}, "a judge takes no part in distances"),
        ({"drawn_classifier": "nothing.yaml"}, "no config file nothing.yaml"),
        ({"drawn_classifier": "shapes_learned.yaml"}, "has no classifier section"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_anything_is_trained(tmp_path, given, sentence):
    """A judge that is missing would come to light after the last training."""
    with pytest.raises(ValueError, match=sentence):
        plan_of(Study(config="shapes_learned.yaml", output=str(tmp_path), encodings=["learned"], **given))


def test_a_judge_that_tokenizers_were_trained_against_is_said(tmp_path):
    """An arm whose tokenizer was taught to please the judge would win by that."""
    arms = [["plain", "seed=0"], ["pleasing", "tokenizer_training.perceptual={weight: 1}"]]
    settings = ["evaluation.features=[efficientnet_lite0, efficientnet_lite1]", f"tokenizer_run={tmp_path}/t"]
    given = {"config": "shapes_learned.yaml", "output": str(tmp_path), "settings": settings}
    assert flattered(plan_of(Study(**given, encodings=["learned"]))) == []

    arms[1].append(f"tokenizer_run={tmp_path}/pleasing")
    (said,) = flattered(plan_of(Study(**given, arms=arms)))
    assert said.startswith("efficientnet_lite0 flatters the images of pleasing, whose tokenizer was trained ")
    settings.append(arms[1][1])
    (said,) = flattered(plan_of(Study(**given, encodings=["learned", "none"])))
    assert said.startswith("efficientnet_lite0 flatters the images of all arms, ")


def test_a_cell_that_is_not_there_is_a_sentence(tmp_path):
    study = Study(config="shapes_learned.yaml", output=str(tmp_path), encodings=["learned"])
    with pytest.raises(ValueError, match="--cell learned_seed_7: this study has no such cell"):
        plan_of(study).cell("learned_seed_7")


def test_a_classifier_of_drawn_images_has_the_settings_of_its_file(tmp_path):
    """Edited after the study had begun, the file would say something else than what was measured."""
    file = tmp_path / "vit.yaml"
    write_text(file, f"base: {CONFIGS / 'shapes_vit_24.yaml'}\n")
    given = {"config": "shapes_learned.yaml", "output": str(tmp_path / "study"), "encodings": ["learned"]}
    (cell,) = plan_of(Study(**given, drawn_classifier=str(file))).cells
    config = config_of_drawn(cell, str(file))
    (Path(config.run) / "classifier").mkdir(parents=True)
    write_text(Path(config.run) / "config.yaml", to_yaml(settled_config(config)))
    plan_of(Study(**given, drawn_classifier=str(file)))

    other = tmp_path / "other.yaml"
    write_text(other, f"base: {file}\nclassifier_training:\n  learning_rate: 0.5\n")
    with pytest.raises(ValueError, match=r"learning_rate: 0.006 -> 0.5"):
        plan_of(Study(**given, drawn_classifier=str(other)))


@pytest.mark.parametrize("redrawn", [False, True])
def test_a_classifier_of_images_that_were_drawn_anew_is_trained_anew(tmp_path, monkeypatch, redrawn):
    """Its score would be that of pictures that are no more."""
    study = Study(config="shapes_learned.yaml", output=str(tmp_path), encodings=["learned"])
    (cell,) = plan_of(study).cells
    write_png(cell.run / "drawn/images/0000_circle/0000000.png", torch.zeros(3, 24, 24, dtype=torch.uint8))
    run = Path(config_of_drawn(cell, "shapes_vit_24.yaml").run)
    run.mkdir()
    identity = DrawnImages(cell.run / "drawn").identity
    History((StepsAsked(0, 1),), training_set="other" if redrawn else identity).write(run)

    there = []
    monkeypatch.setattr(cells, "train_classifier", lambda *_: there.append(run.exists()))
    monkeypatch.setattr(cells, "is_scored", lambda *_: True)
    monkeypatch.setattr(cells, "read_metrics", lambda _: {"classifier": {"values": {"top1": 0.5}}})
    cells.classifier_of_drawn(cell, "shapes_vit_24.yaml", None)
    assert there == [not redrawn]


def test_a_peak_of_memory_is_known_by_the_process_that_trained(tmp_path):
    """A later call with --jobs would turn what earlier trainings left behind into a claim about memory."""
    study = Study(config="shapes_learned.yaml", output=str(tmp_path), encodings=["learned", "none"])
    plan = plan_of(study)
    alone, beside = plan.cells
    assert had_own_process(plan, alone, otherwise=True)
    assert not had_own_process(plan, alone, otherwise=False)

    note_process(plan, alone, own=True)
    note_process(plan, beside, own=False)
    note_process(plan, beside, own=True)  # it goes on where it was
    (alone.run / "generator").mkdir(parents=True)
    note_process(plan, alone, own=False)  # nothing is left to train
    assert had_own_process(plan, alone, otherwise=False)
    assert not had_own_process(plan, beside, otherwise=True)


def test_an_error_keeps_its_sentence_and_a_bug_its_place(plan):
    """A diverged training is one sentence; a bug of ours is looked for in the code."""

    def diverge() -> None:
        raise FloatingPointError("step 7: the loss is not finite")

    assert not attempt(plan, "a", diverge)
    assert failure_of(plan, "a") == "step 7: the loss is not finite"
    assert not attempt(plan, "b", lambda: {}["missing"])
    assert failure_of(plan, "b") == "KeyError: 'missing'"
    assert "test_engine.py" in (plan.output / "cells/b.failed.json").read_text()


def test_a_cell_belongs_to_one_process_at_a_time(plan):
    """Two that train in one folder would read each other's checkpoints."""
    with held(plan, "a") as mine, held(plan, "a") as second:
        assert mine
        assert not second
    with held(plan, "a") as again:
        assert again


def test_a_cells_process_is_alone_whatever_launched_the_study(plan, monkeypatch):
    """With the launcher's variables it would wait for others that never come."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    found = own_environment(plan.study)
    assert not found.keys() & {"RANK", "WORLD_SIZE", "MASTER_PORT", "ACCELERATE_MIXED_PRECISION"}
    assert found["ACCELERATE_USE_CPU"] == "true"
    assert found["OMP_NUM_THREADS"] == "3"


def test_a_study_goes_on_with_runs_that_got_the_rate_chosen_for_their_arm(tmp_path):
    """Otherwise the first finished cell would stop all others: its rate is not the one in the config."""
    study = Study(
        config="shapes_learned.yaml",
        output=str(tmp_path / "study"),
        settings=[f"tokenizer_run={tmp_path / 'tokenizer'}"],
        encodings=["learned"],
        learning_rates=[1e-3, 7e-4],
    )
    VQTokenizer(channels=8, channel_multipliers=[1], norm_groups=4).save_pretrained(
        tmp_path / "tokenizer" / "tokenizer"
    )
    (arm,) = arms_of(study)
    chosen = {"learning_rate": 7e-4, "guidance": 2.5, "nats": {}, "distances": {}}
    kept_choice(study, arm).add({"chosen": chosen})

    # Known by what differs from the defaults: a setting that a later version adds is none of it.
    known = " ".join(kept_choice(study, arm).rests_on["asked"]["config"])
    assert "generator_training.ema" in known
    assert "accumulate" not in known

    cell = with_chosen(study, plan_of(study).cells[0])
    assert cell.config.generator_training.learning_rate == 7e-4
    assert cell.config.sampling.guidance_scale == 2.5
    (cell.run / "generator").mkdir(parents=True)
    write_text(cell.run / "config.yaml", to_yaml(cell.config))
    plan_of(study)

    other = replace(cell.config.generator_training, learning_rate=1e-3)
    write_text(cell.run / "config.yaml", to_yaml(replace(cell.config, generator_training=other)))
    with pytest.raises(ValueError, match=r"learning_rate: 0.001 -> 0.0007"):
        plan_of(study)


@pytest.mark.parametrize(("guidances", "kept"), [([], True), ([1.5, 3.0], False)])
def test_scores_added_later_leave_the_chosen_rates(tmp_path, guidances, kept):
    """Guidance is chosen by the first distance, so another one in its place is another choice."""
    tokenizer = VQTokenizer(channels=8, channel_multipliers=[1], norm_groups=4)
    tokenizer.save_pretrained(tmp_path / "tokenizer" / "tokenizer")
    settings = [f"tokenizer_run={tmp_path / 'tokenizer'}"]
    study = Study(
        config="shapes_learned.yaml",
        output=str(tmp_path / "study"),
        settings=settings,
        encodings=["learned"],
        learning_rates=[1e-3, 7e-4],
        guidances=guidances,
    )
    (arm,) = arms_of(study)
    chosen = {"learning_rate": 7e-4, "guidance": 2.5, "nats": {}, "distances": {}}
    kept_choice(study, arm).add({"chosen": chosen})

    def found(features):
        (arm,) = arms_of(replace(study, settings=[*settings, f"evaluation.features=[{features}]"]))
        return bool(kept_choice(study, arm).results)

    assert found("efficientnet_lite0, efficientnet_lite0_spatial")
    assert found("efficientnet_lite1") is kept


def test_a_study_begun_before_scores_could_be_added_keeps_its_choices(tmp_path):
    """They rested on all scores then; without them its finished runs would seem to have a wrong rate."""
    tokenizer = VQTokenizer(channels=8, channel_multipliers=[1], norm_groups=4)
    tokenizer.save_pretrained(tmp_path / "tokenizer" / "tokenizer")
    study = Study(
        config="shapes_learned.yaml",
        output=str(tmp_path / "study"),
        settings=[f"tokenizer_run={tmp_path / 'tokenizer'}", "evaluation.features=[efficientnet_lite1]"],
        encodings=["learned"],
        learning_rates=[1e-3, 7e-4],
    )
    (arm,) = arms_of(study)
    kept = kept_choice(study, arm)
    asked = {**kept.rests_on["asked"], "config": unusual(replace(arm.config, run="none"))}
    assert asked != kept.rests_on["asked"]
    chosen = {"learning_rate": 7e-4, "guidance": 2.5, "nats": {}, "distances": {}}
    kept.add({})
    write_json(kept.path, {"asked": asked, "found": {"chosen": chosen}})
    assert kept_choice(study, arm).results == {"chosen": chosen}
