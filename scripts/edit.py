"""Repaints a part of pictures with a trained run: in-painting, out-painting, class editing.

    python scripts/edit.py --run runs/fashion_learned --images 0 1 2 --mask top
    python scripts/edit.py --run runs/fashion_learned --images shoe.png --mask all --strength 0.75 --class Bag

Pictures are given as numbers of test images or as files. A file of another size than data.height and
data.width is framed as the run's data were (data.framing and the settings beside it); to edit it at another
size, give these, such as data.height=64 data.width=64. Writes every result, and sheet.png with a row for each
picture: the picture itself, the picture with its masked part in grey, and the results, `--each` of them for
every class.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import var_pe  # noqa: F401  # before torch, whose threads it makes wait politely

# isort: split
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from var_pe.data.image_set import HeldOutImages
from var_pe.data.images import Framer
from var_pe.data.pictures import CorruptImage, DataError, open_picture, to_channels
from var_pe.data.sources import DataConfig
from var_pe.pages.sheets import class_name
from var_pe.sampling.inpaint import VARInpaintPipeline
from var_pe.sampling.masks import PARTS, RULES, outpainting, part, pictures
from var_pe.sampling.pipeline import VARPipelineOutput
from var_pe.sampling.png import write_png
from var_pe.sampling.sheets import write_edits
from var_pe.seeding import generator_for
from var_pe.settings.command_line import RUN, check_options, given_path, parse_arguments
from var_pe.settings.fields import NonNegative, Positive, Share
from var_pe.stages.config import Config
from var_pe.stages.draw import class_in_words, load_pipeline
from var_pe.stages.images import numbered_images
from var_pe.stages.session import exit_with_sentence, session

CHOICE = (
    "guidance_scale",
    "guidance_schedule",
    "scale_guidance",
    "temperature",
    "top_k",
    "top_p",
    "seed",
)
USED_SETTINGS = ("data", *(f"sampling.{name}" for name in CHOICE))  # settings that change the result


def options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--images", nargs="+", required=True, metavar="IMAGE", help="numbers of test images, or picture files"
    )

    mask = parser.add_mutually_exclusive_group(required=True)
    parts = " | ".join(PARTS)
    help_ = (
        f"{parts}, or a picture file, in which white is repainted; it has the picture's size, or the run's"
    )
    mask.add_argument("--mask", metavar="PART_OR_FILE", help=help_)
    sides = ("TOP", "BOTTOM", "LEFT", "RIGHT")
    mask.add_argument("--margins", type=int, nargs=4, metavar=sides, help="pixels to add at each side")

    help_ = "classes to repaint towards: names, or numbers unless names are numbers; default: no class"
    add("--class", dest="classes", nargs="+", default=[None], metavar="NAME", help=help_)
    add("--each", type=int, default=1, metavar="N", help="results for each picture and class; default: 1")
    help_ = "share of the levels, finest first, that may change, 0 .. 1; default: 1"
    add("--strength", type=float, default=1.0, metavar="SHARE", help=help_)
    help_ = (
        "how much of a token's cell must be masked for it to be drawn anew: any of it, more than half, all, "
    )
    help_ += "or var, as VAR's notebook has it; default: half"
    add("--rule", choices=tuple(RULES), default="half", help=help_)
    add("--keep-unmasked", action="store_true", help="paste the original's pixels back outside the mask")
    add(
        "--output",
        type=given_path,
        metavar="DIR",
        help="folder to write; default: edited in the run's folder",
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
    check_options(arguments, each=Positive, strength=Share, margins=list[NonNegative])

    with session() as accelerator:
        if not accelerator.is_main_process:
            return

        pipeline = load_pipeline(config)
        editor = VARInpaintPipeline(pipeline.tokenizer, pipeline.transformer, pipeline.class_names)
        image_NCHW, mask_N1HW = inputs(config, arguments)
        edited_NSCHW = edit(editor.to(accelerator.device), config, arguments, image_NCHW, mask_N1HW)

        folder = arguments.output or Path(config.run) / "edited"
        files_NS = []
        for number, edited_SCHW in enumerate(edited_NSCHW):
            files_NS.append([f"{number:03d}_{column:03d}.png" for column in range(len(edited_SCHW))])
            for file, edited_CHW in zip(files_NS[-1], edited_SCHW, strict=True):
                write_png(folder / file, (edited_CHW * 255).round().byte())

        masked_NCHW = torch.where(mask_N1HW > 0.5, 0.5, image_NCHW)  # in grey
        before_NSCHW = torch.stack([image_NCHW, masked_NCHW], dim=1)
        write_edits(
            folder / "sheet.png",
            [in_words(word) for word in arguments.images],
            torch.cat([before_NSCHW, edited_NSCHW], dim=1),
            ["picture", "masked", *names_of_results(editor, arguments)],
            [["", "", *files] for files in files_NS],
        )
        print(f"pictures: {folder}  all together: {folder / 'sheet.png'}")


def in_words(word: str) -> str:
    """What a row of the sheet is called."""
    return f"test image {word}" if word.isdecimal() else Path(word).name


def names_of_results(editor: VARInpaintPipeline, arguments: argparse.Namespace) -> list[str]:
    """The class that each result of a picture was repainted towards."""
    names = []
    for word in arguments.classes:
        label = -1 if word is None else class_in_words(word, editor, "--class")
        names += [class_name(editor.class_names, label)] * arguments.each
    return names


def inputs(config: Config, arguments: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """The pictures and their masks; with --margins, the pictures with their margins.

    Raises:
        ValueError: a picture cannot be framed, or the mask has another size.
    """
    data = config.data
    found = chosen(config, arguments.images)
    named = list(zip(arguments.images, found, strict=True))
    image_NCHW = torch.stack([framed(picture, data, word) for word, picture in named])
    if arguments.margins:
        margins = dict(zip(("top", "bottom", "left", "right"), arguments.margins, strict=True))
        return outpainting(image_NCHW, data.channels, **margins)

    if arguments.mask in PARTS:
        mask_11HW = part(arguments.mask, image_NCHW.shape[2], image_NCHW.shape[3])
        return image_NCHW, mask_11HW.expand(len(image_NCHW), -1, -1, -1)

    mask = opened("--mask", arguments.mask, f"one of {', '.join(PARTS)}")
    masks = [placed(mask, picture, data, arguments.mask, word) for word, picture in named]
    return image_NCHW, pictures(masks, 1, "--mask")


def framed(picture: Image.Image | Tensor, data: DataConfig, word: str) -> Tensor:
    """A picture (C, H, W) in [0, 1]; a file of another size is framed as the run's data were.

    Raises:
        ValueError: the run's framing cannot take it.
    """
    if isinstance(picture, Tensor):
        return picture
    try:
        return framer(picture, data)(picture, 0, 0) / 2 + 0.5
    except DataError as error:
        raise ValueError(f"--images {word}: {error}") from error


def framer(picture: Image.Image, data: DataConfig) -> Framer:
    """What frames a file without chance; one of the run's size is left as it is."""
    if (picture.height, picture.width) == (data.height, data.width):
        data = replace(data, framing="pad", zoom=1.0, trim=False)
    return Framer(data, train=False, seed=0)


def placed(
    mask: Image.Image, picture: Image.Image | Tensor, data: DataConfig, file: str, word: str
) -> Image.Image:
    """The mask of the framed picture: the given one, or the picture's own, framed as it was.

    Raises:
        ValueError: it has another size.
    """
    run, own = (data.height, data.width), (mask.height, mask.width)
    if own == run:
        return mask

    # A mask cannot follow a picture whose transparent margins are cut off.
    of_file = ""
    if isinstance(picture, Image.Image) and not data.trim:
        if own == (picture.height, picture.width):
            placement = framer(picture, data).placement(*own, 0, 0)
            return Image.fromarray(placement.mask(np.asarray(to_channels(mask, 1)), around=0))
        of_file = f", or that of {word}, {picture.height}x{picture.width}"

    raise ValueError(
        f"--mask {file} has {own[0]}x{own[1]} pixels (rows x columns): give a mask of the run's size, "
        f"{run[0]}x{run[1]}{of_file}"
    )


def chosen(config: Config, words: list[str]) -> list[Image.Image | Tensor]:
    """Images of the test split by number, in [0, 1], and files by name.

    Raises:
        ValueError: a number is too large, or a file cannot be read.
    """
    numbers = [int(word) for word in words if word.isdecimal()]

    # The data set is opened only if a number asks for one of its images.
    held_out: HeldOutImages | None = None
    if numbers:
        held_out = numbered_images(config, max(numbers))
        if max(numbers) >= len(held_out):
            raise ValueError(
                f"--images: the test split has {len(held_out)} images (numbers from 0), "
                f"got number {max(numbers)}"
            )

    found: list[Image.Image | Tensor] = []
    for word in words:
        if held_out is not None and word.isdecimal():
            found.append(held_out[int(word)]["image"] / 2 + 0.5)
        else:
            found.append(opened("--images", word, "the number of a test image, from 0"))
    return found


def opened(option: str, word: str, known: str) -> Image.Image:
    """The picture in the file that an option names; `known` says what else the word could have been.

    Raises:
        ValueError: the file does not exist or cannot be read.
    """
    if not Path(word).is_file():
        raise ValueError(f"{option} {word} is neither {known}, nor a picture file that exists")

    try:
        return open_picture(Path(word), word)
    except CorruptImage as error:
        raise ValueError(f"{option}: {error}") from error


def edit(
    editor: VARInpaintPipeline,
    config: Config,
    arguments: argparse.Namespace,
    image_NCHW: Tensor,
    mask_N1HW: Tensor,
) -> Tensor:
    """The results (N, classes * each, C, H, W) in [0, 1]; every one has its own generator."""
    sampling = config.sampling
    draws = [(picture, n) for picture in arguments.images for n in range(arguments.each)]

    rows, columns = editor.transformer.pyramid.finest
    trained = rows * editor.tokenizer.downsampling, columns * editor.tokenizer.downsampling
    height, width = image_NCHW.shape[-2:]

    found = []
    for word in arguments.classes:
        label = None if word is None else class_in_words(word, editor, "--class")
        try:
            output = editor(
                image_NCHW,
                mask_N1HW,
                label,
                mask_rule=arguments.rule,
                strength=arguments.strength,
                keep_unmasked=arguments.keep_unmasked,
                num_images_per_label=arguments.each,
                guidance_scale=sampling.guidance_scale,
                guidance_schedule=sampling.guidance_schedule,
                scale_guidance=sampling.scale_guidance,
                temperature=sampling.temperature,
                top_k=sampling.top_k,
                top_p=sampling.top_p,
                generator=[generator_for(sampling.seed, "edit", picture, n) for picture, n in draws],
                output_type="pt",
            )
        except ValueError as error:
            if (height, width) == trained:
                raise
            own = f"{trained[0]}x{trained[1]}"
            what, advice = "the pictures with their margins", "give other --margins"
            if not arguments.margins:
                what, advice = "the pictures", "leave data.height and data.width as they were in training"
            raise ValueError(
                f"{what} have {height}x{width} pixels, the run was trained on {own}: {error}; {advice}"
            ) from error

        assert isinstance(output, VARPipelineOutput)
        assert isinstance(output.images, Tensor)
        found.append(output.images.cpu().unflatten(0, (len(image_NCHW), arguments.each)))

    return torch.cat(found, dim=1)


if __name__ == "__main__":
    main()
