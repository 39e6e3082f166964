"""Encoders that learn without labels, from their config to a classifier that starts from them."""

import shutil

import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from tests.runs import TINY
from var_pe import settings
from var_pe.settings.files import ConfigError
from var_pe.stages.config import Config
from var_pe.stages.models import load_classifier, weights_hash
from var_pe.stages.plan import plan
from var_pe.stages.train import train_classifier, train_encoder, train_tokenizer


def config_in(folder, *more: str) -> Config:
    given = [
        *TINY,
        f"run={folder}/run",
        f"tokenizer_run={folder}/tokenizer",
        *(f"data.{rest}" for rest in ("shapes_train=16", "shapes_test=8", "source=shapes")),
        "classifier={}",
        "encoder={}",
        *(
            f"classifier.{rest}"
            for rest in ("dim=16", "depth=2", "num_heads=2", "encoding=sinusoidal + rope")
        ),
        *(f"encoder.{rest}" for rest in ("decoder_dim=8", "projection=8", "projection_hidden=16")),
        *(
            f"{kind}_training.{rest}"
            for kind in ("encoder", "classifier", "tokenizer")
            for rest in ("steps=4", "batch=4", "save_every=2", "warmup=0", "trackers=[]", "validate_every=2")
        ),
    ]
    return settings.load(Config, None, [*given, *more])


def trained(config: Config) -> torch.nn.Module:
    """The encoder of a config, after the tokenizer that it needs, as scripts/train.py does it."""
    accelerator = Accelerator()
    assert config.encoder is not None
    tokens = config.encoder.method == "tokens"
    return train_encoder(config, train_tokenizer(config, accelerator) if tokens else None, accelerator)


@pytest.mark.parametrize("method", ["pixels", "tokens", "contrast"])
def test_a_resumed_encoder_is_the_one_that_was_never_stopped(tmp_path, method):
    """Bit for bit; it is planned and shown, and a classifier starts from it, whose head alone is trained."""
    config = config_in(tmp_path, f"encoder.method={method}")
    assert "kept: the encoder alone" in plan(config)
    encoder = trained(config)
    folder = tmp_path / "run"
    before = weights_hash(folder / "encoder")
    assert Image.open(folder / "samples" / "step_00000004.png").width > 100

    shutil.rmtree(folder / "encoder")
    shutil.rmtree(folder / "checkpoints" / "step_00000004")
    trained(config)
    assert weights_hash(folder / "encoder") == before

    start = f"model.init_from={folder}"
    probe = config_in(tmp_path / "probe", "encoder=null", start, "classifier_training.tuned=head")
    assert "all weights of an encoder, which knows no classes" in plan(probe)
    classifier = train_classifier(probe, Accelerator()).state_dict()
    assert all(torch.equal(value, classifier[name]) for name, value in encoder.state_dict().items())
    assert classifier["head.weight"].abs().max() > 0


def test_views_are_told_apart_from_a_model_of_another_size_on(tmp_path):
    """Tables moved and what is noted beside them, in the slow encoder, too, also after a kill."""
    line = "classifier.encoding=factorized + log_cpb"
    train_classifier(config_in(tmp_path / "first", "encoder=null", line), Accelerator())
    more = [
        f"model.init_from={tmp_path}/first/run",
        "data.height=24",
        "data.width=24",
        "classifier.patch_size=4",
    ]
    config = config_in(tmp_path, "encoder.method=contrast", line, *more)
    trained(config)
    before = weights_hash(tmp_path / "run" / "encoder")

    shutil.rmtree(tmp_path / "run" / "encoder")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step_00000004")
    trained(config)
    assert weights_hash(tmp_path / "run" / "encoder") == before


@pytest.mark.parametrize("tuned", ["prompts", "lora"])
def test_a_part_is_tuned_and_the_rest_stays(tmp_path, tuned):
    """A finished model with adapters is a plain ViT; one with prompts has these and the head alone anew."""
    if tuned == "lora":
        pytest.importorskip("peft")
    first = config_in(tmp_path / "first", "encoder=null")
    train_classifier(first, Accelerator())
    prompts = "classifier.prompts=2" if tuned == "prompts" else "classifier.prompts=0"
    more = ["encoder=null", f"model.init_from={tmp_path}/first/run", f"classifier_training.tuned={tuned}"]
    config = config_in(tmp_path, *more, prompts)
    assert f"tuned: {tuned}" in plan(config)
    train_classifier(config, Accelerator())
    before = weights_hash(tmp_path / "run" / "classifier")

    shutil.rmtree(tmp_path / "run" / "classifier")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step_00000004")
    train_classifier(config, Accelerator())
    assert weights_hash(tmp_path / "run" / "classifier") == before

    old = load_classifier(tmp_path / "first" / "run" / "classifier").state_dict()
    new = load_classifier(tmp_path / "run" / "classifier").state_dict()
    changed = {name for name in new if name not in old or not torch.equal(new[name], old[name])}
    of_blocks = {name for name in changed if not name.startswith("head.")}
    assert {"head.weight", "head.bias"} <= changed
    if tuned == "prompts":
        assert of_blocks == {f"blocks.{block}.prompt_tokens_PC" for block in (0, 1)}
    else:
        layers = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
        assert of_blocks == {f"blocks.{block}.{layer}.weight" for block in (0, 1) for layer in layers}


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("classifier=null", "encoder needs a classifier section"),
        ("data.streaming=true", "encoder needs images by index|streaming"),
        ("classifier.prompts=2", "prompts=2 tunes an encoder that is trained already"),
        ("encoder.decoder_heads=3", "decoder_dim must be a multiple of decoder_heads"),
    ],
)
def test_what_an_encoder_cannot_be_is_said_when_the_config_is_read(tmp_path, setting, sentence):
    with pytest.raises(ConfigError, match=sentence):
        config_in(tmp_path, setting)


def test_a_picture_alone_has_nothing_to_be_told_from(tmp_path):
    """Its loss would be 0 whatever the encoder says."""
    alone = ["encoder.method=contrast", "encoder_training.batch=2", "encoder_training.accumulate=2"]
    with pytest.raises(ConfigError, match=r"batch=2 and encoder_training\.accumulate=2"):
        config_in(tmp_path, *alone)


@pytest.mark.parametrize(
    ("settings_given", "sentence"),
    [
        (
            ["classifier.encoding=peg"],
            "encoder.method=pixels .* a convolution between blocks .* left out .*: take method=tokens",
        ),
        (["encoder.hidden_block=3"], "encoder.hidden_block=3 does not divide the grid of 4x4 patches"),
        (["encoder.hidden_share=0.01"], "encoder.hidden_share=0.01 of 16 squares hides 0 of them"),
        (["encoder.method=tokens", "classifier.patch_size=16"], "encoder.*at least one must be hidden"),
    ],
)
def test_what_cannot_be_trained_is_said_before(tmp_path, settings_given, sentence):
    for action in (plan, trained):
        with pytest.raises(ValueError, match=sentence):
            action(config_in(tmp_path, *settings_given))
    assert not (tmp_path / "run").exists()
