"""Three tokenizers on `shapes`, and the word for each: finished, stopped at 5 % of its steps, collapsed."""

import pytest
from accelerate import Accelerator

from var_pe import settings
from var_pe.stages.config import Config
from var_pe.stages.judge import judge_tokenizer
from var_pe.stages.train import train_tokenizer

SMALL = [
    "data.shapes_train=4000",
    "data.shapes_test=600",
    "data.height=16",
    "data.width=16",
    "tokenizer.levels=[1, 2, 4]",
    "tokenizer.channels=16",
    "tokenizer.norm_groups=8",
    "tokenizer.codebook_size=128",
    "tokenizer.latent_channels=8",
    "tokenizer.patch=1",
    "tokenizer.channel_multipliers=[1, 2, 2]",
    "tokenizer.attention=false",
    # with it PSNR still grows after the steps of the first case
    "tokenizer.shortcut=false",
    *[
        f"tokenizer_training.{rule}"
        for rule in ("batch=32", "precision=float32", "trackers=[]", "log_every=20", "validation_images=200")
    ],
]
STEPS = 1200
# All but no term of the picture: none at all is refused.
NO_PICTURE = [
    "l1=0",
    "l2=0",
    *(f"adversarial.{rule}" for rule in ("weight=1e-9", "adaptive_limit=0", "start=0.99")),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("steps", "more", "name", "advice"),
    [
        (STEPS, [], "finished", "for more"),
        (STEPS // 20, [], "unfinished", "more steps"),
        (STEPS // 8, NO_PICTURE, "collapsed", "give the reconstruction a weight"),
    ],
)
def test_a_tokenizer_gets_the_verdict_and_the_advice_that_it_needs(tmp_path, steps, more, name, advice):
    """What it was trained for is known here, and must be found from its weights and its log alone."""
    rules = [f"steps={steps}", f"validate_every={steps // 6}", "preview_every=0", *more]
    here = [f"run={tmp_path / 'run'}", f"tokenizer_run={tmp_path / 'tokenizer'}"]
    config = settings.load(
        Config, "shapes_mixed.yaml", [*SMALL, *here, *(f"tokenizer_training.{rule}" for rule in rules)]
    )
    accelerator = Accelerator()
    tokenizer = train_tokenizer(config, accelerator)
    found = judge_tokenizer(config, tokenizer, accelerator)
    assert found.name == name, str(found)
    assert advice in found.advice[0]
    assert (tmp_path / "tokenizer" / "verdict.txt").read_text() == f"{found}\n"


def test_a_verdict_is_kept_until_weights_or_log_change(tmp_path, monkeypatch):
    """A finished run that is started again should not be examined again."""
    here = [f"run={tmp_path / 'run'}", f"tokenizer_run={tmp_path / 'tokenizer'}"]
    rules = ["tokenizer_training.steps=2", "tokenizer_training.preview_every=0", "data.shapes_test=20"]
    config = settings.load(Config, "shapes_mixed.yaml", [*SMALL, *here, *rules])
    accelerator = Accelerator()
    tokenizer = train_tokenizer(config, accelerator)
    first = judge_tokenizer(config, tokenizer, accelerator)
    monkeypatch.setattr("var_pe.stages.judge.facts_of", lambda *_: pytest.fail("examined twice"))
    assert judge_tokenizer(config, tokenizer, accelerator) == first

    with open(tmp_path / "tokenizer" / "log.jsonl", "a") as log:
        log.write('{"step": 3}\n')
    with pytest.raises(pytest.fail.Exception, match="examined twice"):
        judge_tokenizer(config, tokenizer, accelerator)
