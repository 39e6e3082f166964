"""Repaints a part of pictures with a trained run: in-painting, out-painting, class editing.

    python scripts/edit.py --run runs/fashion_learned --images 0 1 2 --mask top
    python scripts/edit.py --run runs/fashion_learned --images shoe.png --mask all --strength 0.75 --class Bag

Pictures are given as numbers of test images or as files, which are taken at their own size. Writes every
result, and sheet.png with a row for each picture: the picture itself, the picture with its masked part in
grey, and the results, `--each` of them for every class.
"""

import argparse
from pathlib import Path

import var_pe  # noqa: F401  # before torch, whose threads it makes wait politely

# isort: split
import torch
from PIL import Image
from torch import Tensor

from var_pe.data.image_set import HeldOutImages
from var_pe.sampling.inpaint import VARInpaintPipeline
from var_pe.sampling.masks import PARTS, RULES, outpainting, part, pictures
from var_pe.sampling.pipeline import VARPipelineOutput
from var_pe.sampling.png import write_png
from var_pe.sampling.sheets import write_sheet
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
    add("--images", nargs="+", required=True, help="numbers of test images, or picture files")

    mask = parser.add_mutually_exclusive_group(required=True)
    parts = " | ".join(PARTS)
    mask.add_argument("--mask", help=f"{parts}, or a picture file, in which white is repainted")
    sides = ("TOP", "BOTTOM", "LEFT", "RIGHT")
    mask.add_argument("--margins", type=int, nargs=4, metavar=sides, help="pixels to add at each side")

    help_ = "classes to repaint towards: names, or numbers unless names are numbers; default: no class"
    add("--class", dest="classes", nargs="+", default=[None], help=help_)
    add("--each", type=int, default=1, help="results for each picture and class")
    add("--strength", type=float, default=1.0, help="share of the levels, finest first, that may change")
    rules = " | ".join(RULES)
    add("--rule", choices=tuple(RULES), default="half", help=f"how much of a cell must be masked: {rules}")
    add("--keep-unmasked", action="store_true", help="paste the original's pixels back outside the mask")
    add("--output", type=given_path, help="folder to write; default: edited in the run's folder")


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
        for number, edited_SCHW in enumerate(edited_NSCHW):
            for column, edited_CHW in enumerate(edited_SCHW):
                name = f"{number:03d}_{column:03d}.png"
                write_png(folder / name, (edited_CHW * 255).round().byte())

        masked_NCHW = torch.where(mask_N1HW > 0.5, 0.5, image_NCHW)  # in grey
        before_NSCHW = torch.stack([image_NCHW, masked_NCHW], dim=1)
        write_sheet(folder / "sheet.png", torch.cat([before_NSCHW, edited_NSCHW], dim=1))
        print(f"pictures: {folder}  all together: {folder / 'sheet.png'}")


def inputs(config: Config, arguments: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """The pictures and their masks; with --margins, the pictures with their margins.

    Raises:
        ValueError: the pictures' sizes differ, or the mask's is another one.
    """
    channels = config.data.channels
    own = f"{config.data.height}x{config.data.width}"
    found = chosen(config, arguments.images)
    sizes = {size_of(picture): word for picture, word in zip(found, arguments.images, strict=True)}
    if len(sizes) > 1:
        named = " and ".join(f"{size[0]}x{size[1]} ({word})" for size, word in sizes.items())
        raise ValueError(
            f"--images must be pictures of one size, got {named}, in rows x columns: files are taken at "
            f"their own size, not framed as the run's data are; crop or scale them to {own}, the run's size"
        )
    image_NCHW = pictures(found, channels, "--images")
    if arguments.margins:
        margins = dict(zip(("top", "bottom", "left", "right"), arguments.margins, strict=True))
        return outpainting(image_NCHW, channels, **margins)

    if arguments.mask in PARTS:
        mask_11HW = part(arguments.mask, image_NCHW.shape[2], image_NCHW.shape[3])
    else:
        mask = opened("--mask", arguments.mask, f"one of {', '.join(PARTS)}")
        (size,) = sizes
        if size_of(mask) != size:
            raise ValueError(
                f"--mask {arguments.mask} has {mask.height}x{mask.width} pixels (rows x columns), the "
                f"pictures have {size[0]}x{size[1]}: give a mask of the pictures' size"
            )
        mask_11HW = pictures(mask, 1, "--mask")
    return image_NCHW, mask_11HW.expand(len(image_NCHW), -1, -1, -1)


def size_of(picture: Image.Image | Tensor) -> tuple[int, int]:
    """Rows and columns."""
    if isinstance(picture, Image.Image):
        return picture.height, picture.width
    return picture.shape[-2], picture.shape[-1]


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
        picture = Image.open(word)
        picture.load()  # a file that was cut short shows it only at its end
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{option} {word} cannot be read as a picture: {error}") from error
    return picture


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
                what, advice = "the pictures", f"crop or scale the files to {own}, the run's size"
            raise ValueError(
                f"{what} have {height}x{width} pixels, the run was trained on {own}: {error}; {advice}"
            ) from error

        assert isinstance(output, VARPipelineOutput)
        assert isinstance(output.images, Tensor)
        found.append(output.images.cpu().unflatten(0, (len(image_NCHW), arguments.each)))

    return torch.cat(found, dim=1)


if __name__ == "__main__":
    main()
