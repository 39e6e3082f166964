"""What a timed plan counts and weighs is what a training then does and writes, and nothing of it stays."""

import json
import tempfile
from pathlib import Path

import pytest
from accelerate import Accelerator
from PIL import Image

from tests.runs import TINY, train_both
from var_pe import settings
from var_pe.files import size_on_disk
from var_pe.stages import timing
from var_pe.stages.config import Config
from var_pe.stages.timing import time_stages, timed_plan
from var_pe.stages.train import train_classifier
from var_pe.tasks.pyramids import which_pyramid
from var_pe.training.stopping import Interrupted

SMALL = [
    *TINY,
    "data.shapes_train=300",
    "data.shapes_test=20",
    "sampling.images_per_class=2",
]
for kind in ("tokenizer", "generator", "classifier"):
    rules = ("batch=4", "steps=12", "save_every=5", "validate_every=5", "precision=float32", "trackers=[]")
    SMALL += [f"{kind}_training.{rule}" for rule in rules]


@pytest.fixture
def a_config(tmp_path):
    def made(file: str, *more: str) -> Config:
        where = [f"run={tmp_path / 'run'}", f"tokenizer_run={tmp_path / 'tokenizer'}"]
        return settings.load(Config, file, [*SMALL, *where, *more])

    return made


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """Where temporary folders are made during the test."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def written(run: Path, kind: str) -> int:
    """The bytes of what a finished training keeps: its checkpoints and its weights."""
    return size_on_disk(run / "checkpoints") + size_on_disk(run / kind)


def test_a_generator_s_plan_weighs_what_its_training_writes(a_config, temporary, tmp_path):
    """A disk that is full on the third day would have been known before the first."""
    config = a_config("shapes_learned.yaml")
    costs = {cost.stage: cost for cost in time_stages(config, "generator", Accelerator())}

    # Nothing is left of it.
    assert not any(temporary.iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["temporary"]

    assert "12 steps of" in costs["generator"].work
    assert "validations: 3 of" in costs["generator"].work  # after 5, 10 and 12 steps
    assert costs["token cache"].work.startswith("300 images")
    assert costs["drawing (scripts/sample.py)"].work == "24 images"
    assert all(cost.seconds > 0 for cost in costs.values())
    assert costs["generator"].memory > 1e6

    train_both(config)
    tokenizer, run = tmp_path / "tokenizer", tmp_path / "run"
    assert costs["tokenizer"].disk == pytest.approx(written(tokenizer, "tokenizer"), rel=0.1)
    assert costs["token cache"].disk == pytest.approx(size_on_disk(tokenizer / "tokens"), rel=0.1)
    # Room for the best average in each checkpoint, where it may be the last one, which is there already
    assert 0.9 < costs["generator"].disk / written(run, "generator") < 1.35


def test_a_classifier_s_plan_leaves_its_run_as_it_is(a_config, temporary, tmp_path):
    """Looking at what a run costs must not change the run, even one that is under way."""
    config = a_config("shapes_vit.yaml", "classifier.dim=16", "classifier.depth=1", "classifier.num_heads=2")
    train_classifier(config, Accelerator())
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}

    said = timed_plan(config, "classifier", Accelerator())
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before
    assert not any(temporary.iterdir())
    assert "timed: classifier: about" in said
    assert "12 steps of" in said
    assert "of disk in all, on cpu, processes: 1" in said


def test_a_stream_is_timed_without_its_length(a_config, temporary, tmp_path):
    """Counting its test images would read all of them."""
    for split, count in (("train", 12), ("test", 5)):
        for name in ("cat", "dog"):
            folder = tmp_path / "pets" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (16, 16), (20 * number, 0, 0)).save(folder / f"{number}.png")

    stream = ["data.streaming=true", "data.source=imagefolder", f"data.path={tmp_path / 'pets'}"]
    config = a_config("shapes_learned.yaml", *stream, "generator_training.views=0")
    costs = time_stages(config, "generator", Accelerator())
    assert [cost.stage for cost in costs] == ["tokenizer", "generator", "drawing (scripts/sample.py)"]
    assert not any(temporary.iterdir())


def test_a_timed_plan_that_is_stopped_leaves_nothing(a_config, temporary, tmp_path, monkeypatch):
    def stopped(*arguments):
        raise Interrupted.after(15, 2, 8)

    monkeypatch.setattr(timing, "train_generator", stopped)
    with pytest.raises(Interrupted) as raised:
        time_stages(a_config("shapes_learned.yaml"), "generator", Accelerator())
    assert raised.value.code == 128 + 15
    assert raised.value.sentence == "stopped; the timed steps left no files"
    assert not any(temporary.iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["temporary"]


def test_all_that_follows_a_tokenizer_s_training_is_counted(a_config, temporary, monkeypatch):
    """The verdict may take longer than a short training; scripts/train.py gives none with an encoder's."""
    judged = []
    monkeypatch.setattr(
        timing, "judge_tokenizer", lambda config, *others: judged.append(config.tokenizer_run)
    )
    costs = time_stages(a_config("shapes_learned.yaml"), "tokenizer", Accelerator())
    assert [cost.stage for cost in costs] == ["tokenizer", "scores", "verdict"]
    assert len(judged) == 1
    assert Path(judged[0]).parent.parent == temporary

    vit = ("classifier.dim=16", "classifier.depth=1", "classifier.num_heads=2", "classifier.patch_size=8")
    tokens = ("encoder={method: tokens}", "encoder_training.steps=2", "encoder_training.batch=4")
    config = a_config("shapes_vit.yaml", *vit, *tokens, "encoder_training.precision=float32")
    costs = time_stages(config, "encoder", Accelerator())
    assert [cost.stage for cost in costs] == ["tokenizer", "encoder"]


def test_a_tokenizer_that_is_there_takes_no_time(a_config, temporary, tmp_path):
    (tmp_path / "tokenizer" / "tokenizer").mkdir(parents=True)
    costs = time_stages(a_config("shapes_learned.yaml"), "tokenizer", Accelerator())
    assert [(cost.seconds, cost.disk) for cost in costs] == [(0.0, 0)]


def test_a_training_says_early_what_the_rest_will_take(a_config, tmp_path, capsys):
    """After the first steps, once; the disk that it names is that of a checkpoint."""
    config = a_config("shapes_vit.yaml", "classifier.dim=16", "classifier.depth=1", "classifier.num_heads=2")
    train_classifier(config, Accelerator())
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("the remaining"))
    assert line.startswith("the remaining 6 steps of")
    assert line.endswith("of disk, 2 are kept")

    number, unit = line.partition("a checkpoint takes ")[2].split()[:2]
    (newest,) = (tmp_path / "run" / "checkpoints").glob("step_*12")
    weights = sum(size_on_disk(newest / f"{name}.safetensors") for name in ("model", "ema"))
    said = float(number) * {"kB": 1e3, "MB": 1e6}[unit]
    assert said < size_on_disk(newest)  # whose headers a formula does not count
    assert said == pytest.approx(2 * weights, rel=0.2)
    log = [json.loads(text) for text in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log if "validation_seconds" in entry] == [5, 10, 12]


def test_a_step_in_which_a_pyramid_is_met_counts_for_none_of_the_others(a_config, tmp_path):
    """Its graph may be compiled in it: of the few steps that are timed, it would count for thousands."""
    pyramids = "generator_training.pyramids=[[1, 2], [1, 1, 2], [2]]"
    config = a_config("shapes_learned.yaml", pyramids, "generator_training.batch=8", "seed=3")
    met, lines = set(), []
    for step in range(timing.STEPS):
        pyramid = which_pyramid(config.seed, step, 3)
        slow = step < timing.WARMING_UP or pyramid not in met
        lines.append(json.dumps({"step": step + 1, "images_per_second": 8 / (60.0 if slow else 0.5)}))
        met.add(pyramid)
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    assert set(timing._seconds_of_steps(tmp_path, 8)) == {0.5, 60}  # two are met after the first steps
    assert timing._warm_seconds(config, "generator", tmp_path) == [0.5] * 4
