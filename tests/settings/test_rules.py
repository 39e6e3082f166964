"""Rules of settings: every number has one, and the sentence names the whole key."""

import pytest

from var_pe import settings
from var_pe.settings import ConfigError, all_settings
from var_pe.stages.config import Config

SETTINGS = all_settings(Config)
NUMBERS = [key for key, node in SETTINGS.items() if node.get("type") in ("integer", "number")]
LISTS = ["tokenizer.channel_multipliers", "sampling.size", "sampling.temperature", "generator_training.betas"]


def refusal(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        settings.load(Config, "shapes_vit.yaml", overrides)
    return str(caught.value)


@pytest.mark.parametrize("key", NUMBERS)
def test_no_number_of_a_config_may_be_negative_or_infinite(key):
    """A number without a rule is found here when it is added, and not by its first user after an hour."""
    for nonsense in ["-1"] if SETTINGS[key]["type"] == "integer" else ["-1", ".inf", ".nan"]:
        assert refusal(f"{key}={nonsense}").startswith(f"{key} ")


@pytest.mark.parametrize("key", LISTS)
def test_numbers_in_lists_have_rules_too(key):
    assert refusal(f"{key}=[-1, 1]").startswith(f"{key} on the command line must be ")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        (
            "classifier_training.layer_decay=0",
            "classifier_training.layer_decay on the command line must be float, above 0, at most 1, got 0",
        ),
        (
            "classifier_training.batch=0",
            "classifier_training.batch on the command line must be int, at least 1, got 0",
        ),
        ("data.zoom=0", "data.zoom on the command line must be float, above 0, got 0"),
        (
            "classifier_training.accumulate=3",
            "classifier_training.accumulate must be a divisor of batch (32), got 3",
        ),
        (
            "tokenizer_training.restart.below=1",
            "tokenizer_training.restart.below on the command line must be float, above 0, below 1, got 1",
        ),
        (
            "classifier.num_heads=3",
            "classifier.dim must be a multiple of classifier.num_heads, got 64 and 3",
        ),
        ("data.classes=[cat, cat]", "data.classes names cat twice"),
        ("data.source=hub", "data.source=hub needs data.hub_id, such as data.hub_id=uoft-cs/cifar10"),
        (
            "sampling.guidance_schedule=up",
            "sampling.guidance_schedule on the command line must be "
            "one of linear, constant or list of float, at least 0, got up",
        ),
        (
            "tokenizer.levels=[1, 0]",
            "tokenizer.levels on the command line: "
            "a level of a pyramid is a positive side or two of them (rows, columns), got 0",
        ),
        ("data.framing=", "data.framing on the command line must be one of crop, pad, fit or null, got ''"),
        ("seed=-1", "seed on the command line must be int, at least 0, got -1"),
    ],
)
def test_a_broken_rule_names_setting_value_and_rule(override, sentence):
    assert refusal(override) == sentence
