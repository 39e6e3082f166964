"""Measures how many bits the generator needs for held-out images, and how well these bits classify them.

    python scripts/likelihood.py --run runs/fashion_learned --images 1000

The bits are those of an image's tokens, given its class and without a class. Writes likelihood.json into the
run's folder. At another data.height or data.width the trained levels are scaled, if the encoding allows it.
"""

import argparse
import time
from pathlib import Path

from var_pe.evaluation.records import versions
from var_pe.files import check_writable, write_json
from var_pe.processes import Processes
from var_pe.progress import Counter
from var_pe.sampling.likelihood import Bits, Likelihood, bits_of_set, check_same_classes, summarised
from var_pe.settings.command_line import RUN, check_options, given_path, parse_arguments
from var_pe.settings.fields import Positive
from var_pe.stages.config import Config
from var_pe.stages.draw import load_pipeline, weights_of
from var_pe.stages.images import held_out_images
from var_pe.stages.session import exit_with_sentence, session

USED_SETTINGS = ("data", "sampling.remap")  # settings that change the result


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--images",
        type=int,
        default=1000,
        metavar="N",
        help="test images, drawn from all over the test split; default: 1000",
    )
    batch = "images at once, which does not change the result; default: 100"
    parser.add_argument("--batch", type=int, default=100, metavar="N", help=batch)
    parser.add_argument(
        "--output",
        type=given_path,
        metavar="FILE",
        help="file to write; default: likelihood.json in the run's folder",
    )


@exit_with_sentence()
def main() -> None:
    config, arguments = parse_arguments(
        None,
        description=__doc__ or "",
        schema=Config,
        extra=options,
        instead=(RUN,),
        used_settings=USED_SETTINGS,
    )
    check_options(arguments, images=Positive, batch=Positive)
    path = arguments.output or Path(config.run) / "likelihood.json"
    if path.is_dir():
        raise ValueError(f"--output {path} is a folder; name a file")

    with session() as accelerator:
        processes = Processes.of(accelerator)
        pipeline = load_pipeline(config).to(processes.device)
        images = held_out_images(config, arguments.images)
        known, number = pipeline.class_names, pipeline.transformer.num_classes
        check_same_classes(known, number, images.class_names, config.data.source)

        pyramid = pipeline.pyramid_for(config.data.height, config.data.width)
        path.parent.mkdir(parents=True, exist_ok=True)  # a wrong path fails before the work
        check_writable(path.parent)

        began = time.monotonic()
        with Counter(len(images), "scoring", shown=processes.is_main, processes=processes.world) as counter:
            bits_NYK, labels_N = bits_of_set(
                pipeline.transformer,
                pipeline.tokenizer,
                images,
                pyramid,
                batch=arguments.batch,
                processes=processes,
                on_progress=counter.add,
            )

        found = summarised(bits_NYK, labels_N, pyramid)
        about = {
            "images": len(labels_N),
            "split": f"test of {config.data.source}",
            "levels": [list(grid) for grid in pyramid.grids],
            "encoding": pipeline.transformer.config["encoding"],
            "codebook_size": pipeline.tokenizer.quantizer.num_codes,
            "weights": weights_of(pipeline),
            "seconds": round(time.monotonic() - began, 1),
            "versions": versions(),
        }
        if processes.is_main:
            write_json(path, {**found, **about})
            print(f"{about['images']} images of the {about['split']}, {about['seconds']} s")
            print(report(found))
            print(f"written: {path}")


def report(found: Likelihood) -> str:
    """The bits and the accuracy as lines of text."""
    lines = [line_of("unconditional", found["unconditional"])]
    if "own_class" in found:
        lines.insert(0, line_of("own_class", found["own_class"]))
        levels = ", ".join(f"{value:.3f}" for value in found["accuracy_up_to_level"])
        error = within(found["accuracy_standard_error"])
        lines.append(f"accuracy       {found['accuracy']:.3f}{error}; up to level {levels}")
    return "\n".join(lines)


def line_of(name: str, bits: Bits) -> str:
    levels = ", ".join(f"{value:.1f}" for value in bits["bits_per_level"])
    return (
        f"{name:<14} {bits['bits_per_image']:.2f} bits an image{within(bits['standard_error'])}, "
        f"{bits['bits_per_token']:.3f} a token; by level {levels}"
    )


def within(error: float | None) -> str:
    """A standard error in brackets; nothing for a single image, which has no standard error."""
    return "" if error is None else f" (standard error {error:.2g})"


if __name__ == "__main__":
    main()
