"""Draws images of a trained run, or of a saved pipeline, into a folder.

    python scripts/sample.py --run runs/fashion_learned sampling.images_per_class=500
    python scripts/sample.py --run runs/fashion_learned --class Bag Sandal --count 16

To go on after a stop, run the same command again. --size ROWS COLUMNS, or sampling.size and sampling.levels,
draw at another size than the trained one, if the encoding allows it.
"""

import argparse
from dataclasses import asdict, replace
from pathlib import Path

from var_pe.evaluation.records import read_metrics
from var_pe.sampling.card import publish, save_with_card
from var_pe.sampling.pipeline import VARPipeline
from var_pe.sampling.saved import check_free
from var_pe.sampling.sheets import write_levels
from var_pe.settings.command_line import RUN, check_options, given_path, parse_arguments
from var_pe.settings.fields import Positive
from var_pe.stages.config import Config
from var_pe.stages.draw import as_asked, class_in_words, draw_folder, load_pipeline
from var_pe.stages.session import exit_with_sentence, session

PIPELINE = "--pipeline"  # a saved pipeline in place of a run
USED_SETTINGS = ("sampling",)  # settings that change the images
OF_SOME_CLASSES = "drawn_classes"  # the folder of what --class draws


def options(parser: argparse.ArgumentParser) -> None:
    # The folder of images
    parser.add_argument(
        "--output",
        type=given_path,
        metavar="DIR",
        help="folder of the images; default: drawn in the run's folder",
    )
    parser.add_argument(
        "--class",
        dest="classes",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="draw only these classes: names, or numbers unless names are numbers; images go to "
        f"{OF_SOME_CLASSES} in the run's folder, if --output does not say otherwise",
    )
    parser.add_argument(
        "--count", type=int, metavar="N", help="images of each class: short for sampling.images_per_class=N"
    )
    parser.add_argument(
        "--npz", action="store_true", help="also write all images into one .npz file for ADM's evaluator"
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("ROWS", "COLUMNS"),
        help="size of the images, in pixels: short for sampling.size=[ROWS, COLUMNS]",
    )

    # Or something else instead
    parser.add_argument(
        "--levels",
        type=given_path,
        metavar="PNG",
        help="only write a picture: one image of each class after every level, coarse to fine",
    )
    parser.add_argument(
        "--save-pipeline",
        type=given_path,
        metavar="DIR",
        help="only save the run as a pipeline folder with a model card",
    )
    parser.add_argument(
        "--push-to-hub", metavar="NAME", help="with --save-pipeline: upload that folder to the hub"
    )


@exit_with_sentence()
def main() -> None:
    config, arguments = parse_arguments(
        None,
        description=__doc__ or "",
        schema=Config,
        extra=options,
        instead=(RUN, PIPELINE),
        used_settings=USED_SETTINGS,
    )

    if arguments.push_to_hub and arguments.save_pipeline is None:
        raise ValueError("--push-to-hub uploads the folder of --save-pipeline: give --save-pipeline, too")
    if arguments.save_pipeline is not None and (arguments.classes or arguments.count):
        raise ValueError("--save-pipeline draws no images: leave out --class and --count")

    check_options(arguments, count=Positive, size=list[Positive])
    sampling = config.sampling if arguments.size is None else replace(config.sampling, size=arguments.size)
    if arguments.count is not None:
        sampling = replace(sampling, images_per_class=arguments.count)

    with session() as accelerator:
        # One process saves alone: another one could find the folder half written.
        if arguments.save_pipeline is not None:
            if accelerator.is_main_process:
                check_free(arguments.save_pipeline, "--save-pipeline")
                save(opened(config, arguments.pipeline), config, arguments)
            return

        pipeline = opened(config, arguments.pipeline)
        classes = None
        if arguments.classes is not None:
            labels = [class_in_words(word, pipeline, "--class") for word in arguments.classes]
            classes = list(dict.fromkeys(labels))

        if arguments.levels is not None:
            if accelerator.is_main_process:
                write_levels(arguments.levels, pipeline.to(accelerator.device), sampling, classes)
                print(f"picture: {arguments.levels}")
            return

        # evaluate.py scores all classes, so images of a few classes go into another folder than its own.
        folder = arguments.output or Path(config.run) / ("drawn" if classes is None else OF_SOME_CLASSES)
        draw_folder(pipeline, sampling, folder, accelerator, npz=arguments.npz, classes=classes)
        accelerator.print(f"images: {folder / 'images'}  picture: {folder / 'grid.png'}")


def opened(config: Config, saved: str | None) -> VARPipeline:
    """The run's pipeline, or the saved one that --pipeline names."""
    if saved is None:
        return load_pipeline(config)
    return as_asked(VARPipeline.from_folder(Path(saved), PIPELINE), config.sampling)


def save(pipeline: VARPipeline, config: Config, arguments: argparse.Namespace) -> None:
    """Saves the pipeline with a model card: of the run's settings and scores, or the card it came with."""
    folder, name = arguments.save_pipeline, arguments.push_to_hub

    if arguments.pipeline is None:
        metrics = read_metrics(Path(config.run) / "metrics.json")
        save_with_card(pipeline, folder, asdict(config), metrics, name)
    else:
        save_with_card(pipeline, folder, {}, {}, name)
    print(f"saved: {folder}")

    if name:
        print(f"uploaded: {publish(folder, name)}")


if __name__ == "__main__":
    main()
