"""Scores a run: compares its images with real ones and adds the scores to metrics.json.

    python scripts/evaluate.py --run runs/fashion_learned --features efficientnet_lite1 runs/fashion_vit
    python scripts/evaluate.py --run runs/fashion_learned --of tokenizer
    python scripts/evaluate.py --run runs/fashion_vit --of classifier --size 56 56

Images that do not exist yet are drawn first.
"""

import argparse
import os
import sys
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import var_pe  # noqa: F401  # before torch, whose threads it makes wait politely

# isort: split
from accelerate import Accelerator

from var_pe.files import check_writable
from var_pe.resampling.conventions import CONVENTIONS, DEFAULT_CONVENTION
from var_pe.settings import differences
from var_pe.settings.command_line import FOLDERS, RUN, given_path, parse_arguments, refuse_unused
from var_pe.stages.config import Config
from var_pe.stages.draw import draw_folder, load_pipeline, sampling_of
from var_pe.stages.drawn_images import pictures_in
from var_pe.stages.features import feature_extractor, flattering, judges
from var_pe.stages.models import find_tokenizer, load_tokenizer, unfinished
from var_pe.stages.on_maps import ON_MAPS
from var_pe.stages.score import (
    REFERENCES,
    for_equal_counts,
    score_classifier,
    score_images,
    score_on_maps,
    score_tokenizer,
    summary,
)
from var_pe.stages.session import exit_with_sentence, session

# settings that change the scores
USED_SETTINGS = {
    "generator": ("data", "sampling", "evaluation"),
    "tokenizer": ("data", "evaluation"),
    "classifier": ("data",),
    "segmenter": ("data",),
    "detector": ("data",),
}

# models that say something of images, and what scores them
OF_IMAGES = {"classifier": score_classifier} | {kind: partial(score_on_maps, kind) for kind in ON_MAPS}


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--of", choices=tuple(USED_SETTINGS), default="generator", help="model to score; default: generator"
    )

    # What is compared
    parser.add_argument(
        "--features",
        type=os.path.expanduser,
        nargs="+",
        metavar="NAME",
        help="feature extractors: inception, efficientnet_lite0, _lite1, _lite2, shapes or the run of a "
        "classifier; default: evaluation.features, and also shapes for data.source=shapes",
    )
    parser.add_argument(
        "--inception-weights", metavar="FILE", help="local file with the weights of inception"
    )
    parser.add_argument(
        "--reference",
        choices=REFERENCES,
        default="images",
        help="compare with real images, or with what the tokenizer makes of them; default: images",
    )
    parser.add_argument(
        "--images",
        type=given_path,
        metavar="DIR",
        help="score this folder (or .npz) instead of the run's own images",
    )

    # A classifier, segmenter or detector at another size
    parser.add_argument(
        "--size",
        nargs=2,
        type=int,
        metavar=("ROWS", "COLUMNS"),
        help=f"for a {' or '.join(OF_IMAGES)}: size of the images in pixels",
    )
    parser.add_argument(
        "--resample",
        choices=CONVENTIONS,
        help="how learned position tables are resampled to --size, by a named convention; default: "
        f"{DEFAULT_CONVENTION}",
    )


@exit_with_sentence()
def main() -> None:
    check_named(sys.argv[1:])
    config, arguments = parse_arguments(
        None,
        description=__doc__ or "",
        schema=Config,
        extra=options,
        instead=(RUN,),
        used_settings=USED_SETTINGS["generator"],
    )

    check_together(arguments)
    refuse_unused(arguments.overrides, [*USED_SETTINGS[arguments.of], *FOLDERS], f"with --of {arguments.of}")

    features = arguments.features or judges(config)
    weights = arguments.inception_weights or config.evaluation.inception_weights
    with session() as accelerator:
        check_writable(find_tokenizer(config).parent if arguments.of == "tokenizer" else Path(config.run))
        if arguments.of == "tokenizer":
            found = score_tokenizer(
                config, load_tokenizer(config), accelerator, features=features, inception_weights=weights
            )

        elif arguments.of in OF_IMAGES:
            score = OF_IMAGES[arguments.of]
            found = score(config, accelerator, arguments.size, arguments.resample or DEFAULT_CONVENTION)

        else:
            # A wrong name, or none at all, must fail before anything is drawn.
            if not features:
                raise ValueError(
                    "evaluation.features is empty, so there is nothing to score the images by: name "
                    "extractors, such as --features efficientnet_lite0"
                )
            for name in features:
                feature_extractor(name, weights)

            folder = None if arguments.images is None else pictures_in(arguments.images)
            if folder is None:
                check_trained(config)
                drawn = Path(config.run) / "drawn"
                if not any(word.startswith("sampling.") for word in arguments.overrides):
                    config = as_drawn(config, drawn, accelerator)
                folder = draw_folder(load_pipeline(config), config.sampling, drawn, accelerator)

            found = score_images(
                config,
                folder,
                accelerator,
                features=features,
                reference=arguments.reference,
                inception_weights=weights,
            )

        accelerator.print(summary(found))
        remarks = [] if arguments.of in OF_IMAGES else flattering(config, features)
        if arguments.of == "generator":
            remarks.append(for_equal_counts(found, config.run))
        for remark in filter(None, remarks):
            accelerator.print(remark)


def as_drawn(config: Config, folder: Path, accelerator: Accelerator) -> Config:
    """The config with the sampling settings of the folder's images; prints those that differ."""
    sampling = sampling_of(folder, config.sampling)
    others = differences(asdict(config.sampling), asdict(sampling))
    if others:
        accelerator.print(
            f"scoring the images in {folder}, drawn with other settings than the run's: {'; '.join(others)}"
        )
    return replace(config, sampling=sampling)


def check_named(words: list[str]) -> None:
    """Says what is wanted where neither a run nor a config is named."""
    options = {word.partition("=")[0] for word in words}
    if not options & {"--run", "--config", "--help", "-h"}:
        raise ValueError(
            "give --run DIR to score the images that it draws against its data, or --images FOLDER with "
            "--run DIR or --config FILE to score those of a folder"
        )


def check_trained(config: Config) -> None:
    """Says what to do where no generator could draw the images."""
    if config.kind == "encoder":
        raise ValueError(
            f"{config.run} is an encoder, which has no scores of its own: train a classifier from it "
            f"(model.init_from={config.run}) and score that with --of classifier"
        )
    if config.kind != "generator":
        raise ValueError(f"{config.run} is a {config.kind}, which draws no images: give --of {config.kind}")
    if not (Path(config.run) / "generator" / "config.json").exists():
        others = ", ".join(("tokenizer", *OF_IMAGES))
        advice = unfinished(Path(config.run)) or "train it (scripts/train.py)"
        raise ValueError(
            f"{config.run} has no trained generator to draw images with: {advice}, or give --images FOLDER "
            f"to score images that are there, or --of {others}"
        )


def check_together(arguments: argparse.Namespace) -> None:
    """Refuses options that would have no effect together with the others."""
    if arguments.size is not None and arguments.of not in OF_IMAGES:
        raise ValueError(
            f"--size scores a {' or '.join(OF_IMAGES)} at another size: give --of {' or '.join(OF_IMAGES)}"
        )
    if arguments.resample is not None and arguments.size is None:
        raise ValueError("--resample says how tables move to another size: give --size, too")
    if arguments.of != "generator" and (arguments.images or arguments.reference != REFERENCES[0]):
        raise ValueError(f"--images and --reference are for drawn images, but --of is {arguments.of}")
    if arguments.of in OF_IMAGES and arguments.features:
        raise ValueError(
            f"--of {arguments.of} has scores that need no feature extractor: leave out --features"
        )


if __name__ == "__main__":
    main()
