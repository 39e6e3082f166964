"""More steps, other starts, the best average: said, recorded, resumed, and refused where due."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from PIL import Image

from tests.runs import train_both
from var_pe import settings
from var_pe.models.kernels import TABLE, Served, rows_for
from var_pe.models.tokenizer import VQTokenizer
from var_pe.models.transfer import start_tokenizer_from
from var_pe.models.vit import ViTClassifier
from var_pe.processes import Processes
from var_pe.stages.begun import ask, is_finished, with_kernels
from var_pe.stages.config import Config
from var_pe.stages.draw import load_pipeline
from var_pe.stages.models import load_model
from var_pe.stages.plan import plan
from var_pe.stages.train import check_generator, train_classifier, train_generator, train_tokenizer
from var_pe.training import loop
from var_pe.training.history import FILE, NUMBERS, History, StepsAsked, rate_at
from var_pe.training.log import read_log
from var_pe.training.notes import TrainingNotes

SETTINGS = [
    "data.shapes_train=24",
    "data.shapes_test=12",
    "tokenizer.channels=8",
    "tokenizer.norm_groups=8",
    "tokenizer.codebook_size=16",
    "generator.dim=16",
    "generator.depth=1",
    "generator.num_heads=2",
    *(
        f"{kind}_training.{rule}"
        for kind in ("tokenizer", "generator", "classifier")
        for rule in ("steps=4", "batch=8", "validation_images=12", "save_every=1", "precision=float32")
    ),
    *(f"{kind}_training.trackers=[]" for kind in ("tokenizer", "generator", "classifier")),
]
CLASSIFIER = ["classifier={}", *(f"classifier.{line}" for line in ("dim=16", "depth=1", "num_heads=2"))]


def a_config(folder, *more):
    folders = [f"run={folder / 'run'}", f"tokenizer_run={folder / 'tokenizer'}"]
    return settings.load(Config, "shapes_mixed.yaml", [*folders, *SETTINGS, *more])


def a_vit(folder, *more):
    patches = ["classifier.patch_size=8", "classifier.encoding=learned", "classifier_training.warmup=0"]
    return a_config(folder, *CLASSIFIER, *patches, *more)


def notes_of(folder, kind="classifier"):
    return TrainingNotes.read(folder / "run" / kind)


def same(a, b):
    return all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a finished classifier and a finished tokenizer, to be copied."""
    folder = tmp_path_factory.mktemp("finished")
    train_classifier(a_vit(folder), Accelerator())
    train_tokenizer(a_config(folder), Accelerator())
    return folder


@pytest.fixture
def finished_vit(finished, tmp_path):
    """The finished classifier's run, as if it had been trained in this test's folder."""
    shutil.copytree(finished / "run", tmp_path / "run")
    return tmp_path / "run"


class Killed(Exception):
    pass


def killed_at(monkeypatch, step, train, *given):
    """Runs a training that dies where it asks for the learning rate of a step."""

    def dies(at, *rest):
        if at == step:
            raise Killed
        return rate_at(at, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "rate_at", dies)
        with pytest.raises(Killed):
            train(*given)


def test_a_finished_run_is_extended_by_the_same_command_with_the_new_number(tmp_path, capsys):
    """The log says so, the record keeps both, and the result is that of the longer run."""
    rules = ["classifier_training.schedule=constant", "classifier_training.validate_every=2"]
    train_classifier(a_vit(tmp_path, *rules), Accelerator())
    extended = train_classifier(a_vit(tmp_path, *rules, "classifier_training.steps=8"), Accelerator())
    assert "was asked for 4 steps and, from step 4 on, for 8; learning rate by" in capsys.readouterr().out
    assert notes_of(tmp_path).asked == (StepsAsked(0, 4), StepsAsked(4, 8))
    assert notes_of(tmp_path).steps_done == 8
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert saved["classifier_training"]["steps"] == 8

    whole = train_classifier(a_vit(tmp_path / "whole", *rules, "classifier_training.steps=8"), Accelerator())
    assert same(extended, whole)
    assert notes_of(tmp_path).step == notes_of(tmp_path / "whole").step


def test_a_game_that_has_begun_goes_on_when_its_tokenizer_is_extended(tmp_path):
    """Its start and warm-up are shares of the steps first asked for: none of them comes a second time."""
    game = {"weight": 0.5, "start": 0.5, "warmup": 0.25, "channels": 4, "adaptive_limit": 0}
    rules = [f"tokenizer_training.adversarial.{name}={value}" for name, value in game.items()]
    rules += ["tokenizer_training.schedule=constant", "tokenizer_training.log_every=1"]
    train_tokenizer(a_config(tmp_path, *rules), Accelerator())
    train_tokenizer(a_config(tmp_path, *rules, "tokenizer_training.steps=8"), Accelerator())
    log = read_log(tmp_path / "tokenizer" / "log.jsonl")
    weights = {entry["step"]: entry.get("adversarial/weight", 0) for entry in log if "loss" in entry}
    assert weights == {1: 0, 2: 0, **dict.fromkeys(range(3, 9), 0.5)}


def test_an_extension_needs_a_rule_where_the_rate_ends_and_goes_on_after_a_kill(
    finished_vit, tmp_path, monkeypatch, capsys
):
    """Refused before anything is trained; killed right at its start it needs the rule no more."""
    longer = a_vit(tmp_path, "classifier_training.epochs=2", "classifier_training.steps=0")
    before = (tmp_path / "run" / "config.yaml").read_text()
    with pytest.raises(ValueError, match=r"run has done 4 of 4 steps, and 6 are asked for.*--extend.*rewarm"):
        train_classifier(longer, Accelerator())
    assert (tmp_path / "run" / "config.yaml").read_text() == before
    shutil.copytree(tmp_path / "run", tmp_path / "other" / "run")

    killed_at(monkeypatch, 4, train_classifier, longer, Accelerator(), "rewarm")
    assert (tmp_path / "run" / "classifier").exists()
    killed_at(monkeypatch, 5, train_classifier, longer, Accelerator(), "rewarm")
    resumed = train_classifier(longer, Accelerator())
    assert notes_of(tmp_path).asked == (StepsAsked(0, 4), StepsAsked(4, 6, "rewarm"))
    other = a_vit(tmp_path / "other", "classifier_training.epochs=2", "classifier_training.steps=0")
    assert same(resumed, train_classifier(other, Accelerator(), "rewarm"))

    capsys.readouterr()
    train_classifier(longer, Accelerator())
    assert capsys.readouterr().out == f"{tmp_path}/run/classifier is already there\n"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["classifier_training.steps=3"], "has done 4 steps, and 3 are asked for; ask for more than 4"),
        (
            ["classifier_training.steps=8", "classifier_training.batch=4"],
            "other settings: .*batch: 8 -> 4; cho",
        ),
        (["classifier_training.steps=8", "seed=1"], "other settings: seed: 0 -> 1; choose"),
    ],
)
def test_what_is_no_extension_is_refused(finished_vit, tmp_path, more, said):
    with pytest.raises(ValueError, match=said):
        train_classifier(a_vit(tmp_path, *more), Accelerator(), "rewarm")


def test_a_rule_without_another_number_of_steps_is_said_to_change_nothing(finished_vit, tmp_path, capsys):
    """Somebody forgot the number, and would wait for nothing."""
    for rule, said in ((None, ""), ("hold", "; --extend hold has no effect without more steps or epochs")):
        train_classifier(a_vit(tmp_path), Accelerator(), rule)
        assert f"classifier is already there{said}" in capsys.readouterr().out


def test_a_run_killed_before_its_first_checkpoint_takes_any_number(tmp_path, monkeypatch):
    """Nothing has been trained that another number could contradict."""
    killed_at(monkeypatch, 0, train_classifier, a_vit(tmp_path), Accelerator())
    train_classifier(a_vit(tmp_path, "classifier_training.steps=3"), Accelerator())
    assert notes_of(tmp_path).asked == (StepsAsked(0, 3),)


def test_a_finished_run_without_checkpoints_cannot_be_extended(finished_vit, tmp_path):
    """Its optimizer is gone; the sentence names the setting that starts from its weights."""
    shutil.rmtree(finished_vit / "checkpoints")
    longer = a_vit(tmp_path, "classifier_training.steps=8")
    with pytest.raises(ValueError, match=r"has no checkpoint left to go on from, but .*\(model.init_from="):
        train_classifier(longer, Accelerator(), "stretch")


def test_a_training_set_of_another_size_is_no_extension(finished_vit, tmp_path):
    """Epochs would count other images, and the order would be another one."""
    with pytest.raises(ValueError, match=r"for 4 steps on 24 images, and there are 25 now"):
        ask(a_vit(tmp_path), finished_vit, "classifier", 25, None)


def pictures(folder, *, seed=0):
    """A folder of a training and a test split of two classes, 4 pictures each."""
    draw = np.random.default_rng(seed)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            for number in range(4):
                pixels = draw.integers(0, 256, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
    return folder


def test_a_training_set_with_other_pictures_is_no_way_to_go_on(tmp_path):
    """As many pictures of other names or contents are other ones; a copy is the same, wherever it lies."""
    place = pictures(tmp_path / "set")
    given = ["data.source=imagefolder", f"data.path={place}", "classifier_training.schedule=constant"]
    train_classifier(a_vit(tmp_path, *given), Accelerator())

    shutil.copytree(place, tmp_path / "copy", copy_function=shutil.copyfile)
    os.utime(tmp_path / "copy" / "train" / "cat" / "0.png", (1e9, 1e9))
    shutil.rmtree(place)
    place = tmp_path / "copy"
    given[1] = f"data.path={place}"
    train_classifier(a_vit(tmp_path, *given, "classifier_training.steps=5"), Accelerator())

    other = pictures(tmp_path / "other")
    (other / "train" / "cat" / "0.png").rename(other / "train" / "cat" / "9.png")
    with pytest.raises(ValueError, match=r"other settings: data.path: .*copy -> .*other; choose another"):
        train_classifier(a_vit(tmp_path, *given, f"data.path={other}"), Accelerator())

    (place / "train" / "cat" / "0.png").rename(place / "train" / "cat" / "9.png")
    with pytest.raises(
        ValueError, match=r"5 steps on 8 images, and some of the 8 that are in .*/copy now are different"
    ):
        train_classifier(a_vit(tmp_path, *given, "classifier_training.steps=6"), Accelerator())

    # A run that did not note its pictures goes on.
    history = json.loads((tmp_path / "run" / FILE).read_text())
    del history["training_set"]
    (tmp_path / "run" / FILE).write_text(json.dumps(history))
    train_classifier(a_vit(tmp_path, *given, "classifier_training.steps=6"), Accelerator())
    assert json.loads((tmp_path / "run" / FILE).read_text())["training_set"]


def test_a_generator_of_other_pictures_than_its_tokenizer_is_said(tmp_path, capsys):
    place = pictures(tmp_path / "set")
    config = a_config(tmp_path, "data.source=imagefolder", f"data.path={place}")
    train_tokenizer(config, Accelerator())
    (place / "train" / "cat" / "0.png").rename(place / "train" / "cat" / "9.png")
    train_both(config)
    assert "tokenizer was trained on other pictures than the generator would be" in capsys.readouterr().out


@pytest.mark.parametrize("noted", [1, NUMBERS + 1, None])
def test_a_run_of_another_rule_of_numbers_is_finished_but_does_not_go_on(
    finished, tmp_path, monkeypatch, noted
):
    """Its later steps would compute other numbers than its first ones, and nobody would know."""
    history = tmp_path / "run" / FILE

    def note():
        found = json.loads(history.read_text())
        assert found["numbers"] == NUMBERS
        found["numbers"] = noted
        if noted is None:  # as runs were written before rules were noted
            del found["numbers"]
        history.write_text(json.dumps(found))

    killed_at(monkeypatch, 2, train_classifier, a_vit(tmp_path), Accelerator())
    note()
    with pytest.raises(ValueError, match=rf"run was begun by another version.* \(by rule {noted or 1}, here"):
        train_classifier(a_vit(tmp_path), Accelerator())

    shutil.rmtree(tmp_path / "run")
    shutil.copytree(finished / "run", tmp_path / "run")
    note()
    whole = load_model(ViTClassifier, finished / "run" / "classifier")
    assert same(train_classifier(a_vit(tmp_path), Accelerator()), whole)
    with pytest.raises(ValueError, match="finish it with that version, or train in another folder"):
        train_classifier(a_vit(tmp_path, "classifier_training.steps=6"), Accelerator(), "stretch")


def under_other_kernels(monkeypatch):
    """A version of this package whose table was measured anew."""
    for name in rows_for("cpu"):
        monkeypatch.setitem(TABLE, name, Served(plain=0, fused=10**9))


def test_a_run_goes_on_by_the_kernels_that_it_was_begun_with(finished, tmp_path, monkeypatch, capsys):
    """Another version's table would round otherwise from there on, and nobody would know."""
    killed_at(monkeypatch, 2, train_classifier, a_vit(tmp_path), Accelerator())
    with monkeypatch.context() as patch:
        under_other_kernels(patch)
        resumed = train_classifier(a_vit(tmp_path), Accelerator())
        assert "goes on by the kernels that its training was begun with" in capsys.readouterr().out
        another = train_classifier(a_vit(tmp_path / "another"), Accelerator())

    whole = load_model(ViTClassifier, finished / "run" / "classifier")
    assert same(resumed, whole)
    assert not same(another, whole)  # or nothing would follow from the kernels here
    assert History.read(tmp_path / "run").kernels == rows_for("cpu")


def test_a_run_that_is_moved_to_another_device_takes_the_kernels_of_that(capsys):
    """It notes them as well; that its device has changed is said where the checkpoint is read."""
    begun = History((StepsAsked(0, 4),), kernels=rows_for("cpu"))
    gpu = Processes(accelerator=SimpleNamespace(device=torch.device("cuda")))
    assert with_kernels(begun, "generator", gpu).kernels == rows_for("cuda") | rows_for("cpu")
    assert "kernels" not in capsys.readouterr().out


def test_a_kernel_that_is_not_here_any_more_is_named():
    begun = History((StepsAsked(0, 4),), kernels={"cpu, 32 bits": Served(plain=0, fused=0, beyond="spiral")})
    with pytest.raises(ValueError, match=r"a kernel spiral that is not here: finish it with that version"):
        with_kernels(begun, "generator", Processes())


def test_a_generator_of_another_rule_is_refused_before_its_tokenizer_is_trained(tmp_path, monkeypatch):
    """And by --dry-run: hours of a tokenizer's training would be for nothing."""
    config = a_config(tmp_path)
    killed_at(monkeypatch, 2, train_generator, config, train_tokenizer(config, Accelerator()), Accelerator())
    found = json.loads((tmp_path / "run" / FILE).read_text())
    (tmp_path / "run" / FILE).write_text(json.dumps(found | {"numbers": 1}))
    for use in (check_generator, plan):
        with pytest.raises(ValueError, match="run was begun by another version"):
            use(config)


def test_a_run_without_a_history_is_finished(finished_vit, tmp_path):
    """The first versions wrote none; what it was asked for stands in its settings."""
    (finished_vit / FILE).unlink()
    path = finished_vit / "classifier" / "training.json"
    kept = {name: json.loads(path.read_text())[name] for name in ("step", "ema", "seed", "class_names")}
    path.write_text(json.dumps(kept))
    assert is_finished(a_vit(tmp_path), finished_vit, "classifier")
    longer = a_vit(tmp_path, "classifier_training.steps=6")
    assert not is_finished(longer, finished_vit, "classifier")
    with pytest.raises(ValueError, match="run was begun by another version"):
        ask(longer, finished_vit, "classifier", 24, "stretch")


def test_a_generator_does_not_follow_a_tokenizer_that_was_extended(tmp_path):
    """Its tokens mean other codes then: it would draw worse pictures, and nobody would know why."""
    config = a_config(tmp_path, "tokenizer_training.schedule=constant")
    train_both(config)
    load_pipeline(config)
    longer = a_config(tmp_path, "tokenizer_training.schedule=constant", "tokenizer_training.steps=6")
    with pytest.raises(
        ValueError, match=r"run learned the codes of .*tokenizer after another number of its steps .*4 -> 6"
    ):
        check_generator(longer)
    train_tokenizer(longer, Accelerator())
    for use in (load_pipeline, check_generator):
        with pytest.raises(
            ValueError, match=r"run learned the codes of another tokenizer than .*tokenizer holds"
        ):
            use(config)
    with pytest.raises(ValueError, match="tokenizer has done 6 steps, and 4 are asked for"):
        train_tokenizer(config, Accelerator())


@pytest.mark.parametrize(
    ("levels", "codes", "said"),
    [
        (
            [1, 2, 4],
            24,
            "its 16 codes are the first of 24, the others start from data; levels 1-2-3-4 -> 1-2-4",
        ),
        ([1, 2, 3, 4], 8, "of its 16 codes the 8 most used"),
    ],
)
def test_a_tokenizer_starts_from_another_and_needs_it_no_more(
    finished, tmp_path, monkeypatch, capsys, levels, codes, said
):
    """Levels and codes may differ; a resumed run ends with the same bits though its source is gone."""
    shutil.copytree(finished / "tokenizer", tmp_path / "source" / "tokenizer")
    source = load_model(VQTokenizer, tmp_path / "source" / "tokenizer" / "tokenizer")
    results = []
    for name in ("whole", "killed"):
        config = a_config(
            tmp_path / name,
            f"tokenizer_init_from={tmp_path / 'source' / 'tokenizer'}",
            f"tokenizer.levels={levels}",
            f"tokenizer.codebook_size={codes}",
        )
        assert f"the tokenizer's training starts from {config.tokenizer_init_from}: " in plan(config)
        if name == "killed":
            killed_at(monkeypatch, 2, train_tokenizer, config, Accelerator())
            shutil.rmtree(tmp_path / "source")
            assert said in plan(config)
        results.append(train_tokenizer(config, Accelerator()))
    assert same(*results)
    assert said in capsys.readouterr().out
    notes = TrainingNotes.read(Path(config.tokenizer_run) / "tokenizer")
    assert (notes.start.step, notes.start.codes) == (4, min(codes, 16))
    assert not same(source, source.__class__.from_config(source.config))


def of_codes(tokenizer):
    """Weights and biases that expect codes, a row for each, where there are any."""
    expectation = tokenizer.quantizer.expectation
    return [] if expectation is None else [expectation.codes.weight, expectation.codes.bias]


@torch.no_grad()
@pytest.mark.parametrize("line", ["vq", "vq(rate=0.1, given=coarser)"])
def test_a_started_tokenizer_is_the_trained_one(line, make_tokenizer):
    """With other levels it decodes the same map to the same picture; codes keep their order."""
    trained = make_tokenizer(seed=1, quantizer=line)
    trained.quantizer.usage_V.copy_(torch.rand(16, generator=torch.Generator().manual_seed(0)))
    f_BZhw = torch.randn(2, 4, 4, 4)
    for size in (8, 16, 24):
        model = make_tokenizer(levels=(1, 4), codebook_size=size, seed=2, quantizer=line)
        _, kept = start_tokenizer_from(model, trained)
        assert torch.equal(model.reconstruct(f_BZhw), trained.reconstruct(f_BZhw))
        chosen = sorted(range(16), key=lambda code: -float(trained.quantizer.usage_V[code]))[:kept]
        expected_VZ = trained.quantizer.codebook_VZ[sorted(chosen)]
        assert torch.equal(model.quantizer.codebook_VZ[:kept], expected_VZ)
        for row, row_before in zip(of_codes(model), of_codes(trained), strict=True):
            assert torch.equal(row[:kept], row_before[sorted(chosen)])
        ratio_V = model.quantizer.usage_V[:kept] * size / (trained.quantizer.usage_V[sorted(chosen)] * 16)
        torch.testing.assert_close(ratio_V, torch.ones(kept))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("data.channels=1", "holds another model: image_channels: 3 -> 1"),
        ("tokenizer.latent_channels=8", "holds another model: latent_channels: 16 -> 8"),
        ("tokenizer_init_from=nowhere", "tokenizer_init_from=nowhere: .* holds no trained model"),
    ],
)
def test_a_tokenizer_of_another_make_is_refused_by_what_differs(finished, tmp_path, change, said):
    """In training and by --dry-run."""
    source = f"tokenizer_init_from={finished / 'tokenizer'}"
    config = a_config(tmp_path / "new", source, change)
    for use in (plan, lambda config: train_tokenizer(config, Accelerator())):
        with pytest.raises(ValueError, match=said):
            use(config)


def test_a_run_that_started_from_another_resumes_without_it(tmp_path, monkeypatch):
    """Also one whose table keeps the grid of the run that it started from, which its shape follows from."""
    grid = "classifier.encoding=learned_grid"
    train_classifier(a_vit(tmp_path / "source", grid), Accelerator())
    results = []
    for name in ("whole", "killed"):
        source = f"model.init_from={tmp_path / 'source' / 'run'}"
        config = a_vit(tmp_path / name, grid, source, "data.height=48", "data.width=64")
        if name == "killed":
            killed_at(monkeypatch, 2, train_classifier, config, Accelerator())
            shutil.rmtree(tmp_path / "source")
            assert "training starts from" in plan(config)
        results.append(train_classifier(config, Accelerator()))
    assert same(*results)
    assert results[0].config["kept_grids"] == results[1].config["kept_grids"]
    assert results[0].position_encoding.table_LC.shape[0] == 16
    assert notes_of(tmp_path / "killed").start.kept_grids == [[4, 4]]


def test_the_finished_classifier_is_that_of_the_best_validation(tmp_path, capsys):
    """A rate that is far too high makes later averages worse; the record says which step was kept."""
    rules = ["steps=4", "validate_every=1", "learning_rate=1", "schedule=constant", "ema=0"]
    model = train_classifier(
        a_vit(tmp_path, *(f"classifier_training.{rule}" for rule in rules)), Accelerator()
    )
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    losses = {entry["step"]: entry["validation/loss"] for entry in log if "validation/loss" in entry}
    best, notes = min(losses, key=losses.get), notes_of(tmp_path)
    assert (notes.step, notes.validated, notes.keep) == (best, losses[best], "best")
    assert notes.step < notes.steps_done == 4
    assert f"the finished classifier is the average of step {best} of 4" in capsys.readouterr().out
    assert same(model, load_model(type(model), tmp_path / "run" / "classifier"))


def test_which_average_is_kept_by_default():
    config = settings.load(Config, "shapes_mixed.yaml")
    kept = [config.tokenizer_training.keep, config.generator_training.keep, config.classifier_training.keep]
    assert kept == ["last", "best", "best"]
