"""A config with stages leads to a classifier in stages, wherever one is built, trained and loaded."""

import json

import pytest
import torch
from accelerate import Accelerator

from var_pe import settings
from var_pe.diagnosis.opening import open_subject
from var_pe.evaluation.classifier import ClassifierFeatures
from var_pe.models.feature_stages import HierarchyStages
from var_pe.models.hierarchy.classifier import HierarchicalClassifier
from var_pe.models.transfer import start_from
from var_pe.settings.files import ConfigError
from var_pe.stages.config import Config
from var_pe.stages.models import build_classifier, load_classifier
from var_pe.stages.plan import plan
from var_pe.stages.train import train_classifier
from var_pe.training.groups import LayerRates

LINES = ["convolution(blocks=1)", "windowed(blocks=2, window=2)", "full(blocks=1)"]


def config_in(folder, *more: str) -> Config:
    given = [
        f"run={folder}/run",
        f"tokenizer_run={folder}/tokenizer",
        "data.source=shapes",
        "data.height=16",
        "data.width=16",
        "data.shapes_train=16",
        "data.shapes_test=8",
        "classifier={}",
        f"classifier.hierarchy={json.dumps(LINES)}",
        "classifier.encoding=sinusoidal + relative_bias",
        *(f"classifier.{rest}" for rest in ("patch_size=2", "dim=16", "num_heads=2")),
        *(f"classifier_training.{rest}" for rest in ("steps=4", "batch=4", "save_every=2", "warmup=0")),
        *(f"classifier_training.{rest}" for rest in ("preview_every=0", "validate_every=0", "trackers=[]")),
    ]
    return settings.load(Config, None, [*given, *more])


def test_a_hierarchy_is_trained_saved_and_used(tmp_path):
    """Rates by layers that thaw, features for scores and for losses, and what has to say no."""
    thawing = ["classifier_training.layer_decay=0.5", "classifier_training.unfreeze_every=1"]
    config = config_in(tmp_path, *thawing)
    start = build_classifier(config, 12).state_dict()
    trained = train_classifier(config, Accelerator())
    assert isinstance(trained, HierarchicalClassifier)
    assert train_classifier(config, Accelerator()).config == trained.config  # it is there
    moved = {name for name, value in trained.state_dict().items() if not torch.equal(value, start[name])}
    assert "head.weight" in moved
    assert "stages.1.blocks.1.mlp.fc1.weight" in moved
    assert "patch_embed.weight" not in moved

    images = torch.rand(2, 3, 16, 16)
    features = ClassifierFeatures(trained, "run", "0").describe((images + 1) * 127.5)
    assert features.features_BF.shape == (2, 64)
    maps = HierarchyStages(load_classifier(tmp_path / "run" / "classifier"), "run", 1)(images[:, :1])
    assert [tuple(one.shape[1:]) for one in maps] == [(16, 8, 8), (32, 4, 4), (64, 2, 2)]

    with pytest.raises(ValueError, match="is a classifier in stages"):
        open_subject(tmp_path / "run")


def test_a_hierarchy_starts_from_one_of_another_size(tmp_path, make_loud):
    """Codes of a map move with it; the window's table stays."""
    source = make_loud(
        build_classifier(config_in(tmp_path, "classifier.encoding=learned + relative_bias"), 12)
    )
    larger = ["data.height=32", "data.width=32", "classifier.encoding=learned + relative_bias"]
    model = build_classifier(config_in(tmp_path, *larger), 12)
    start_from(model, source, "timm")
    table = "stages.1.position_encoding.table_NHyx"
    assert torch.equal(model.state_dict()[table], source.state_dict()[table])
    moved = model.state_dict()["stages.1.map_position_encoding.table_LC"]
    assert moved.shape == (64, 32)
    assert torch.equal(moved, source.state_dict()["stages.1.map_position_encoding.table_LC"])


def test_layers_are_counted_through_all_stages():
    rates = LayerRates(depth=4, decay=0.5, stages=(1, 2, 1))
    names = {
        "head.weight": 0,
        "norm.weight": 0,
        "stages.2.blocks.0.norm1.weight": 1,
        "stages.2.merging.norm.weight": 1,
        "stages.1.blocks.1.attn.q_bias": 2,
        "stages.1.position_encoding.table_NHyx": 3,
        "stages.0.blocks.0.expand.weight": 4,
        "patch_embed.weight": 5,
    }
    assert {name: rates.below_head(name) for name in names} == names


def test_a_plan_says_what_every_stage_attends_to(tmp_path):
    said = plan(config_in(tmp_path)).partition("# What these settings lead to")[2]
    assert "4 blocks in 3; so classifier.depth=6 is not used" in said
    assert "stage 1, convolution: 8x8 cells, 16 wide, 1 block" in said
    assert "stage 2, windowed: 4x4 cells, 32 wide, 2 blocks" in said
    assert "attention: 4 parts of 4 tokens" in said
    assert "acts on embed, bias" in said


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("classifier.pool=class_token", "classifier.pool has no meaning in a hierarchy: leave it at mean"),
        ("model.retrofit={}", "model.retrofit replaces the encoding of one grid"),
        ("classifier.registers=2", "classifier.registers has no meaning"),
        ('classifier.hierarchy=["full(blocks=2000)"]', "at most 10,000,000,000 in 1,000 are built"),
        ('classifier.hierarchy=["fll(blocks=2)"]', "classifier.hierarchy: stage 1.*did you mean full"),
        (
            'classifier.hierarchy=["full("]',
            r"^classifier.hierarchy: stage 1, 'full\(' is not of the form name",
        ),
        (
            "classifier.hierarchy=[windowed(blocks=2, window=4), full(blocks=1)]",
            r"stage 1, 'windowed\(blocks=2', ends before its bracket closes: .* needs quotes",
        ),
    ],
)
def test_what_a_hierarchy_cannot_be_is_said_when_the_config_is_read(tmp_path, setting, sentence):
    with pytest.raises(ConfigError, match=sentence):
        config_in(tmp_path, "model.init_from=there", setting)
