"""Trains what a config describes: a tokenizer (unless it exists) and a generator; or a ViT classifier, an
encoder without labels, a segmenter or a detector.

    accelerate launch scripts/train.py --config cifar_mixed.yaml [key.sub=value ...]

To resume after a kill or a stop, run the same command again. To extend a run, ask for more steps or epochs,
and say with --extend how its learning rate goes on (docs/method.md, section 9).
"""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from var_pe.diagnosis.attributions import has_library
from var_pe.settings.command_line import parse_arguments
from var_pe.stages.begun import training_of
from var_pe.stages.config import Config, Kind
from var_pe.stages.judge import end_of_generator, judge_tokenizer
from var_pe.stages.on_maps import ON_MAPS
from var_pe.stages.plan import plan
from var_pe.stages.score import (
    is_scored,
    score_classifier,
    score_on_maps,
    score_tokenizer,
    summary,
)
from var_pe.stages.session import exit_with_sentence, session
from var_pe.stages.timing import timed_plan
from var_pe.stages.train import (
    check_encoder,
    check_generator,
    train_classifier,
    train_encoder,
    train_generator,
    train_on_maps,
    train_tokenizer,
)
from var_pe.training.config import TrainingConfig
from var_pe.training.history import RULES, Rule

STAGES = ("all", *get_args(Kind))

# A config for each section that makes a stage of its own
SUCH_AS = {
    "classifier": "fashion_vit.yaml",
    "encoder": "fashion_pretrain.yaml",
    "segmenter": "shapes_segmenter.yaml",
    "detector": "shapes_detector.yaml",
}


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stage", choices=STAGES, default="all", help="only this stage and what it needs")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the resolved config and what it would train"
    )
    parser.add_argument(
        "--timed",
        action="store_true",
        help="with --dry-run: also do a few steps of every stage in a temporary folder (TMPDIR says where), "
        "and print how much time, memory and disk the whole training will take",
    )
    parser.add_argument(
        "--extend",
        choices=RULES,
        help="how the learning rate of a run goes on that is given more steps: rewarm repeats warm-up and "
        "schedule over the steps that are left, stretch takes the schedule as if that many steps had been "
        "asked for from the start, hold keeps the rate of the last step",
    )


def stage_of(config: Config, asked: Kind | Literal["all"]) -> Kind:
    """The stage to run; "all" is what the config trains in the end.

    Raises:
        ValueError: the config cannot run the stage that was asked for.
    """
    kind = config.kind
    if asked == "all":
        return kind
    if asked == kind or (asked, kind) == ("tokenizer", "generator"):
        return asked
    needs_more = asked in ("encoder", "segmenter", "detector") and kind == "classifier"
    if asked in SUCH_AS and (kind == "generator" or needs_more):
        raise ValueError(f"--stage {asked} needs a config with the section {asked}, as in {SUCH_AS[asked]}")
    raise ValueError(f"--stage {asked}: the config has the section {kind}, so only its {kind} can be trained")


def after_classifier(config: Config) -> str:
    """The command that comes next; clips are not explained, and nothing is without grad-cam."""
    assert config.classifier is not None
    run = shlex.quote(config.run)
    if config.classifier.tubelet is not None or not has_library():
        return f"to score it again: python scripts/evaluate.py --run {run} --of classifier"
    return f"to see what it looks at: python scripts/explain.py {run}"


def after_encoder(config: Config) -> str:
    """The command that comes next: a classifier of the same pictures, this time with their labels."""
    words = [
        *("python", "scripts/train.py", "--config", str(Path(config.run) / "config.yaml")),
        *("encoder=null", f"model.init_from={config.run}", f"run={config.run}_classifier"),
    ]
    return f"to train a classifier from it: {shlex.join(words)}"


@exit_with_sentence()
def main(argv: Sequence[str] | None = None) -> None:
    config, arguments = parse_arguments(argv, description=__doc__ or "", schema=Config, extra=options)
    stage = stage_of(config, arguments.stage)
    if arguments.timed and not arguments.dry_run:
        raise ValueError("--timed estimates what a training would take: give --dry-run, too")

    extend: Rule | None = arguments.extend
    trainings: tuple[TrainingConfig, ...] = (training_of(config, stage),)
    if stage == "generator":
        trainings = config.tokenizer_training, config.generator_training
    if arguments.dry_run:
        print(plan(config))
        if arguments.timed:
            with session(*trainings) as accelerator:
                accelerator.print(timed_plan(config, stage, accelerator))
        return

    with session(*trainings) as accelerator:
        if stage == "classifier":
            train_classifier(config, accelerator, extend)
            if not is_scored(config, Path(config.run), "classifier"):
                accelerator.print(summary(score_classifier(config, accelerator)))
            accelerator.print(after_classifier(config))

        elif stage == "encoder":
            check_encoder(config)
            learns_tokens = config.encoder is not None and config.encoder.method == "tokens"
            tokenizer_of_tokens = train_tokenizer(config, accelerator) if learns_tokens else None
            train_encoder(config, tokenizer_of_tokens, accelerator, extend)
            accelerator.print(after_encoder(config))

        elif stage in ON_MAPS:
            train_on_maps(config, accelerator, extend)
            if not is_scored(config, Path(config.run), stage):
                accelerator.print(summary(score_on_maps(stage, config, accelerator)))
            accelerator.print(f"what is found in some test images: {Path(config.run) / 'results.png'}")

        elif stage == "tokenizer":
            tokenizer = train_tokenizer(config, accelerator, extend)
            if not is_scored(config, Path(config.tokenizer_run), "tokenizer"):
                score_tokenizer(config, tokenizer, accelerator)
            accelerator.print(judge_tokenizer(config, tokenizer, accelerator))

        else:
            # A mistake in the generator's settings must be found before hours of training the tokenizer.
            check_generator(config)
            tokenizer = train_tokenizer(config, accelerator, extend)
            if not is_scored(config, Path(config.tokenizer_run), "tokenizer"):
                score_tokenizer(config, tokenizer, accelerator)
            accelerator.print(judge_tokenizer(config, tokenizer, accelerator))
            train_generator(config, tokenizer, accelerator, extend)
            accelerator.print(end_of_generator(config))

        folder = config.tokenizer_run if stage == "tokenizer" else config.run
        accelerator.print(f"finished: {folder}")


if __name__ == "__main__":
    main()
