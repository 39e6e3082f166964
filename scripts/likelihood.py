"""How many bits the generator needs for held-out images, and how well it classifies them by that.

    python scripts/likelihood.py --run runs/fashion_learned --images 1000

Bits are those of an image's tokens, under its own class and under none. Writes likelihood.json into the run's
folder. At another data.height or data.width the levels are the trained ones, scaled, where the encoding can
follow.
"""

import argparse
import json
import re
import time
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object

from var_pe.evaluation.records import versions
from var_pe.progress import Counter
from var_pe.sampling.likelihood import bits_of_set, summarised
from var_pe.sampling.pipeline import VARPipeline
from var_pe.settings.command_line import check_options, exit_with_sentence, parse_arguments
from var_pe.stages.config import Config
from var_pe.stages.draw import load_pipeline, weights_of
from var_pe.stages.models import held_out_images
from var_pe.stages.train import session

USED_SETTINGS = ("data",)  # settings that change what it does


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=int, default=1000, help="so many of the test split, from its start")
    parser.add_argument("--batch", type=int, default=100, help="images at once; does not change the result")
    parser.add_argument("--output", type=Path, help="default: likelihood.json in the run's folder")


@exit_with_sentence()
def main() -> None:
    config, arguments = parse_arguments(
        None, description=__doc__ or "", schema=Config, extra=options, runs=True, used_settings=USED_SETTINGS
    )
    check_options(arguments, images="[1, inf)", batch="[1, inf)")
    path = arguments.output or Path(config.run) / "likelihood.json"
    if path.is_dir():
        raise ValueError(f"--output {path} is a folder; name a file")
    with session() as accelerator:
        pipeline = load_pipeline(config).to(accelerator.device)
        images = held_out_images(config, arguments.images)
        check_classes(pipeline, images, config.data.source)
        pyramid = pipeline.pyramid_for(config.data.height, config.data.width)
        path.parent.mkdir(parents=True, exist_ok=True)  # what stands in the way is known before the work
        world, began = accelerator.num_processes, time.monotonic()
        with Counter(len(images), "scoring", shown=accelerator.is_main_process) as counter:
            bits_NYK, labels_N = bits_of_set(
                pipeline.transformer,
                pipeline.tokenizer,
                images,
                pyramid,
                batch=arguments.batch,
                rank=accelerator.process_index,
                world=world,
                gather=gather_object if world > 1 else lambda parts: parts,
                on_progress=lambda number: counter.add(number * world),
            )
        found: dict[str, Any] = summarised(bits_NYK, labels_N, pyramid) | {
            "images": len(labels_N),
            "split": f"test of {config.data.source}",
            "levels": [list(grid) for grid in pyramid.grids],
            "codebook_size": len(pipeline.tokenizer.quantizer.codebook_VZ),
            "weights": weights_of(pipeline),
            "seconds": round(time.monotonic() - began, 1),
            "versions": versions(),
        }
        if accelerator.is_main_process:
            path.write_text(json.dumps(found, indent=2) + "\n")
            print(report(found), f"\nwritten: {path}", sep="")


def check_classes(pipeline: VARPipeline, images: Any, source: str) -> None:
    """An image's own class must be the generator's of that number; spelling by case and signs is free.

    Raises:
        ValueError: the generator has other classes than the data.
    """
    theirs = getattr(getattr(images, "dataset", images), "class_names", ())  # a stream's are not known
    ours = pipeline.class_names
    plain = [[re.sub(r"\W", "", name).lower() for name in names] for names in (theirs, ours)]
    number = pipeline.transformer.num_classes
    if not (number and theirs) or (len(theirs) == number and plain[0] == (plain[1] or plain[0])):
        return
    few = [f" ({', '.join(names[:3])} ...)" if names else "" for names in (theirs, ours)]
    raise ValueError(
        f"data.source={source} has {len(theirs)} classes{few[0]}, "
        f"the generator was trained on {number} others{few[1]}"
    )


def report(found: dict[str, Any]) -> str:
    """The record as lines."""
    lines = [f"{found['images']} images of the {found['split']}, {found['seconds']} s"]
    for name in ("own_class", "unconditional"):
        if name in found:
            bits = found[name]
            levels = ", ".join(f"{value:.1f}" for value in bits["bits_per_level"])
            lines.append(
                f"{name:<14} {bits['bits_per_image']:.2f} bits an image{within(bits['standard_error'])}, "
                f"{bits['bits_per_token']:.3f} a token; by level {levels}"
            )
    if "accuracy" in found:
        levels = ", ".join(f"{value:.3f}" for value in found["accuracy_up_to_level"])
        error = within(found["accuracy_standard_error"])
        lines.append(f"accuracy       {found['accuracy']:.3f}{error}; up to level {levels}")
    return "\n".join(lines)


def within(error: float | None) -> str:
    """A standard error in words; a single image has none."""
    return "" if error is None else f" (standard error {error:.2g})"


if __name__ == "__main__":
    main()
