"""scripts/retrofit.py: a trained generator, a classifier and a converted VAR get another encoding."""

import runpy
import sys

import pytest
import torch
import yaml

from tests.interop.vit.reference import timm_vit
from tests.runs import TINY, train_both
from var_pe import settings
from var_pe.interop.vit.conversion import convert
from var_pe.models.generator import VARTransformer
from var_pe.models.vit import ViTClassifier
from var_pe.sampling.pipeline import VARPipeline
from var_pe.stages.config import Config
from var_pe.stages.models import load_model
from var_pe.tasks.generator import GeneratorTask

DATA = ["data.shapes_train=24", "data.shapes_test=8"]
RULES = [
    f"{kind}_training.{rule}"
    for kind in ("tokenizer", "generator", "classifier")
    for rule in ("batch=4", "validation_images=4", "precision=float32", "trackers=[]", "log_every=1")
]


def retrofit(monkeypatch, *words) -> None:
    monkeypatch.setattr(sys, "argv", ["scripts/retrofit.py", *map(str, words)])
    runpy.run_path("scripts/retrofit.py", run_name="__main__")


def test_a_generator_gets_another_encoding_and_resumes_bit_for_bit(tmp_path, monkeypatch, capsys):
    """It is afterwards a plain generator of the new line; the first step's loss is that of the old one."""
    folders = [f"run={tmp_path / 'run'}", f"tokenizer_run={tmp_path / 'tokenizer'}"]
    steps = [f"{kind}_training.steps=1" for kind in ("tokenizer", "generator")]
    config = settings.load(Config, "shapes_learned.yaml", [*TINY, *DATA, *RULES, *folders, *steps])
    train_both(config)

    def go(name):
        words = ["--run", tmp_path / "run", "--encoding", "sinusoidal + rope", "--steps", 4]
        more = ["generator_training.save_every=1", "generator_training.validate_every=2"]
        retrofit(monkeypatch, *words, "--output", tmp_path / name, *more)
        return load_model(VARTransformer, tmp_path / name / "generator")

    whole = go("whole")
    assert whole.config["encoding"].endswith("+ rope")
    assert not any(".old." in name for name in whole.state_dict())
    said = capsys.readouterr().out
    assert "encoding learned becomes sinusoidal(scale=" in said
    assert "step 2: new encoding 50%" in said
    assert "step 4: new encoding 100%" in said

    def die(self, model, step, accelerator, updates):
        if step == 2:
            raise KeyboardInterrupt
        return {}

    monkeypatch.setattr(GeneratorTask, "after_step", die)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        go("killed")
    monkeypatch.undo()
    resumed = go("killed").state_dict()
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.state_dict().items())


def test_a_converted_classifier_of_timm_gets_another_encoding(tmp_path, monkeypatch):
    """A folder of scripts/convert.py, with pictures that a config names."""
    theirs = timm_vit(size=(16, 16), num_classes=12)
    vit = convert(theirs.state_dict(), source="timm", like=theirs, verify=theirs)
    vit.save_pretrained(tmp_path / "vit")
    words = ["--config", "shapes_vit.yaml", "--model", tmp_path / "vit", "--encoding", "learned + rope"]
    size = ["data.height=16", "data.width=16", "--steps", 2]
    retrofit(monkeypatch, *words, "--output", tmp_path / "new", *size, *DATA, *RULES)
    new = load_model(ViTClassifier, tmp_path / "new" / "classifier")
    assert new.config["encoding"] == "learned + rope"
    assert new.config["pool"] == vit.config["pool"]


def test_a_converted_generator_keeps_its_tokenizer(tmp_path, monkeypatch, pipeline):
    """A saved pipeline, as VAR's weights become one."""
    pipeline.save_pretrained(tmp_path / "var")
    words = ["--config", "shapes.yaml", "--model", tmp_path / "var", "--encoding", "alibi", "--steps", 2]
    size = ["data.height=8", "data.width=8"]
    retrofit(monkeypatch, *words, "--output", tmp_path / "new", *size, *DATA, *RULES)
    written = yaml.safe_load((tmp_path / "new" / "config.yaml").read_text())
    assert written["tokenizer_run"] == str(tmp_path / "var")
    new = load_model(VARTransformer, tmp_path / "new" / "generator")
    assert new.config["encoding"] == "alibi"
    images = VARPipeline(pipeline.tokenizer, new)([0], output_type="pt").images
    assert images.isfinite().all()


def test_a_member_that_cannot_be_blended_and_an_average_of_before_are_refused(tmp_path):
    """Before anything is trained, by a sentence."""
    more = ["model.init_from=runs/a", "model.retrofit={until: 0.3}"]
    with pytest.raises(settings.ConfigError, match=r"model\.retrofit needs keep=last and patience=0"):
        settings.load(Config, "shapes.yaml", more)
    with pytest.raises(settings.ConfigError, match="retrofit needs a trained model to start from"):
        settings.load(Config, "shapes.yaml", more[1:])
