"""Trains what a config describes: a tokenizer (unless it exists) and a generator, or a ViT classifier.

    accelerate launch scripts/train.py --config cifar_mixed.yaml [key.sub=value ...]

To resume after a kill or a stop, run the same command again. To extend a run, ask for more steps or epochs;
where its learning rate ends, --extend says how it goes on (docs/method.md, section 9).
"""

import argparse
from pathlib import Path

from var_pe.settings.command_line import parse_arguments
from var_pe.stages.config import Config
from var_pe.stages.judge import end_of_generator, judge_tokenizer
from var_pe.stages.plan import plan
from var_pe.stages.score import is_scored, score_classifier, score_tokenizer
from var_pe.stages.session import exit_with_sentence, session
from var_pe.stages.timing import timed_plan
from var_pe.stages.train import check_generator, train_classifier, train_generator, train_tokenizer
from var_pe.training.config import TrainingConfig
from var_pe.training.history import RULES, Rule

STAGES = ("all", "tokenizer", "generator", "classifier")


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stage", choices=STAGES, default="all", help="only this stage and what it needs")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the resolved config and what it amounts to"
    )
    parser.add_argument(
        "--timed",
        action="store_true",
        help="with --dry-run: also do a few steps of every stage in a temporary folder (TMPDIR says where), "
        "and print what time, memory and disk the whole will take",
    )
    parser.add_argument(
        "--extend",
        choices=RULES,
        help="how the learning rate of a run goes on that is asked for another number of steps: warm-up and "
        "schedule anew over the steps that are left, the schedule as if the number had been there from the "
        "start, or the rate of the last step",
    )


def stage_of(config: Config, asked: str) -> str:
    """The stage to run; "all" is the classifier or the generator, whichever the config trains.

    Raises:
        ValueError: the config cannot run the stage that was asked for.
    """
    of_classifier = config.classifier is not None
    if asked == "all":
        return "classifier" if of_classifier else "generator"
    if asked == "classifier" and not of_classifier:
        raise ValueError(
            "--stage classifier needs a config with a classifier section, such as fashion_vit.yaml"
        )
    if asked != "classifier" and of_classifier:
        raise ValueError(
            f"--stage {asked}: the config has a classifier section, so it trains a classifier alone"
        )
    return asked


@exit_with_sentence()
def main() -> None:
    config, arguments = parse_arguments(None, description=__doc__ or "", schema=Config, extra=options)
    stage = stage_of(config, arguments.stage)
    if arguments.timed and not arguments.dry_run:
        raise ValueError("--timed says what a training would take: give --dry-run, too")

    extend: Rule | None = arguments.extend
    trainings: tuple[TrainingConfig, ...] = config.tokenizer_training, config.generator_training
    if stage != "generator":
        trainings = (config.classifier_training if stage == "classifier" else config.tokenizer_training,)
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
                score_classifier(config, accelerator)

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
