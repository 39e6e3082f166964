"""Draws images of a trained run, or of a saved pipeline, into a folder.

    python scripts/sample.py --run runs/fashion_learned sampling.images_per_class=500

To go on after a stop, run the same command again.
"""

import argparse
from pathlib import Path

from var_pe.command_line import exit_with_sentence, parse_arguments
from var_pe.config import Config
from var_pe.sampling.pipeline import VARPipeline
from var_pe.scoring import draw_folder, load_pipeline
from var_pe.stages import session

PIPELINE = {"--pipeline": ("run=.", "tokenizer_run=.")}  # a saved pipeline in place of a run


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", type=Path, help="folder of the images; default: drawn in the run's folder"
    )
    parser.add_argument(
        "--npz", action="store_true", help="also one .npz of all images, as ADM's evaluator reads"
    )
    parser.add_argument(
        "--save-pipeline", type=Path, help="save the run as a pipeline folder, and draw nothing"
    )


@exit_with_sentence()
def main() -> None:
    config, arguments = parse_arguments(
        None, description=__doc__ or "", schema=Config, extra=options, runs=True, instead=PIPELINE
    )
    with session() as accelerator:
        if arguments.pipeline is not None:
            if not (Path(arguments.pipeline) / "model_index.json").exists():
                raise ValueError(
                    f"--pipeline {arguments.pipeline} has no model_index.json: not a saved pipeline"
                )
            pipeline = VARPipeline.from_pretrained(arguments.pipeline, local_files_only=True)
        else:
            pipeline = load_pipeline(config)
        if arguments.save_pipeline is not None:
            if accelerator.is_main_process:
                pipeline.save_pretrained(arguments.save_pipeline)
            accelerator.print(f"saved: {arguments.save_pipeline}")
            return
        folder = arguments.output or Path(config.run) / "drawn"
        draw_folder(pipeline, config.sampling, folder, accelerator, npz=arguments.npz)
        accelerator.print(f"images: {folder / 'images'}  picture: {folder / 'grid.png'}")


if __name__ == "__main__":
    main()
