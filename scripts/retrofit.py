r"""Gives a trained generator or ViT another position encoding by a short training.

    python scripts/retrofit.py --run runs/fashion_learned --encoding "sinusoidal + rope" --steps 1000
    python scripts/retrofit.py --config imagenet256.yaml --model var_d16 --encoding "learned + rope" \
        --steps 5000

The old encoding fades out while the new one comes in, over the share --until of the steps. --run is the
folder of a run; --model is a folder that scripts/convert.py wrote, with a config that names the pictures.
Other settings, such as the learning rate, are those of the config or key.sub=value. To go on after a stop,
run the same command again.
"""

import argparse
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from var_pe.models.folder import SavedModel
from var_pe.models.generator import GeneratorConfig, VARTransformer
from var_pe.models.tokenizer import TokenizerConfig, VQTokenizer
from var_pe.models.transfer import Retrofit
from var_pe.models.vit import ClassifierConfig, ViTClassifier
from var_pe.settings.command_line import RUN, check_options, given_path, parse_arguments
from var_pe.settings.fields import Positive
from var_pe.stages.config import Config
from var_pe.stages.models import described_model, find_tokenizer
from var_pe.stages.session import exit_with_sentence, session
from var_pe.stages.starts import is_classifier, trained_folder
from var_pe.stages.train import check_generator, train_classifier, train_generator, train_tokenizer
from var_pe.training.log import read_log


def options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--model",
        type=given_path,
        metavar="DIR",
        help="with --config: a folder that scripts/convert.py wrote",
    )
    add("--encoding", required=True, metavar="LINE", help="the new position encoding, one line")
    add("--steps", type=int, required=True, metavar="N", help="training steps in all")
    add(
        "--until",
        type=float,
        default=Retrofit.until,
        metavar="SHARE",
        help=f"share of the steps over which the old encoding fades out; default: {Retrofit.until}",
    )
    add("--output", type=given_path, metavar="DIR", help="the new run's folder; default: beside the old one")


def retrofitted(config: Config, model: Path, arguments: argparse.Namespace) -> Config:
    """The config of the training: the model's own settings but for the encoding, and its weights."""
    output = str(arguments.output or model.with_name(f"{model.name}_retrofitted"))
    start = replace(config.model, init_from=str(model), retrofit=Retrofit(until=arguments.until))
    last: dict[str, Any] = {"steps": arguments.steps, "keep": "last", "patience": 0}

    if is_classifier(model):
        vit = described_model(ViTClassifier, trained_folder(model, "classifier"))
        of_vit = ClassifierConfig(**settings_of(vit, ClassifierConfig))
        return replace(
            config,
            run=output,
            model=start,
            classifier=replace(of_vit, encoding=arguments.encoding),
            classifier_training=replace(config.classifier_training, **last),
        )

    # A saved pipeline holds its tokenizer.
    if (model / "tokenizer").exists():
        config = replace(config, tokenizer_run=str(model))
    transformer = described_model(VARTransformer, trained_folder(model, "generator"))
    tokenizer = described_model(VQTokenizer, find_tokenizer(config))
    of_generator = GeneratorConfig(**settings_of(transformer, GeneratorConfig))
    return replace(
        config,
        run=output,
        model=start,
        classifier=None,
        tokenizer=TokenizerConfig(**settings_of(tokenizer, TokenizerConfig)),
        generator=replace(of_generator, encoding=arguments.encoding),
        generator_training=replace(config.generator_training, progressive=None, **last),
    )


def settings_of(model: SavedModel, section: type) -> dict[str, Any]:
    """A saved model's own values of the settings of a section."""
    names = [field.name for field in fields(section) if field.name in model.config]
    return {name: model.config[name] for name in names}


@exit_with_sentence()
def main() -> None:
    config, arguments = parse_arguments(
        None, description=__doc__ or "", schema=Config, extra=options, instead=(RUN,)
    )
    check_options(arguments, steps=Positive)
    if (arguments.run is None) == (arguments.model is None):
        raise ValueError("give --run RUN, or --config FILE and --model FOLDER")
    config = retrofitted(config, Path(arguments.run or arguments.model), arguments)

    of_classifier = config.classifier is not None
    training = config.classifier_training if of_classifier else config.generator_training
    with session(training) as accelerator:
        if of_classifier:
            train_classifier(config, accelerator)
        else:
            check_generator(config)
            train_generator(config, train_tokenizer(config, accelerator), accelerator)

        # Loss against steps
        log = read_log(Path(config.run) / "log.jsonl")
        for entry in log:
            if "validation/loss" in entry:
                step = int(entry["step"])
                share = Retrofit(until=arguments.until).share_at(step - 1, arguments.steps)
                loss = entry["validation/loss"]
                accelerator.print(f"step {step}: new encoding {share:.0%}, validation/loss {loss:.4g}")
        accelerator.print(f"finished: {config.run}")


if __name__ == "__main__":
    main()
