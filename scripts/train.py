"""Trains what a config describes: the tokenizer if it is missing, the token cache, the generator; or a ViT.

    accelerate launch scripts/train.py --config cifar_mixed.yaml [key.sub=value ...]

To resume after a kill or a stop, run the same command again.
"""

import argparse

from var_pe.command_line import exit_with_sentence, parse_arguments
from var_pe.config import Config
from var_pe.planning import plan
from var_pe.scoring import score_classifier, score_tokenizer
from var_pe.sets import generator_pyramids
from var_pe.stages import session, train_classifier, train_generator, train_tokenizer

STAGES = ("all", "tokenizer", "generator", "classifier")


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stage", choices=STAGES, default="all", help="only this stage and what it needs")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the resolved config and what it amounts to"
    )


@exit_with_sentence()
def main() -> None:
    config, arguments = parse_arguments(None, description=__doc__ or "", schema=Config, extra=options)
    if arguments.dry_run:
        print(plan(config))
        return
    stage = arguments.stage
    if stage == "all":
        stage = "generator" if config.classifier is None else "classifier"
    trainings = config.tokenizer_training, config.generator_training, config.classifier_training
    with session(*trainings) as accelerator:
        if stage == "classifier":
            train_classifier(config, accelerator)
            score_classifier(config, accelerator)
        else:
            if stage == "generator":
                generator_pyramids(config)  # what it cannot follow is said before the tokenizer trains
            train_tokenizer(config, accelerator)
            score_tokenizer(config, accelerator, features=[])
            if stage == "generator":
                train_generator(config, accelerator)
        accelerator.print(f"finished: {config.tokenizer_run if stage == 'tokenizer' else config.run}")


if __name__ == "__main__":
    main()
