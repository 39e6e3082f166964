"""A generator's epochs from end to end over a folder of images, beside the public VAR code's.

    python benchmarks/epoch.py --reference ../VAR
    python benchmarks/epoch.py --images 500 --epochs 1

The folder is made here: PNGs of soft random colours in ten classes. Ours is `train_generator` as a command
runs it: the token cache is made first; validation, preview, checkpoint and finished model are counted. Theirs
is the public code's data set, tokenizer and transformer as they are, in its trainer's order: it encodes every
image in every epoch, after a crop of its own. It validates nothing and saves nothing. Both have the same
tokenizer, the same initial weights, fused AdamW, clipped gradients and the same autocast.
"""

import argparse
import importlib
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path

import var_pe  # noqa: F401  # before torch, whose threads it makes wait politely

# isort: split
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from machine import check_device, device_option, json_option, machine, precision_option
from PIL import Image
from public_var import FIXED, public_models, reference_option
from torch import nn
from torch.utils.data import DataLoader

from var_pe import settings
from var_pe.files import write_json
from var_pe.models.tokenizer import VQTokenizer
from var_pe.processes import Processes
from var_pe.settings.command_line import check_options
from var_pe.settings.fields import Positive
from var_pe.stages.config import Config
from var_pe.stages.images import training_images_at
from var_pe.stages.models import build_generator
from var_pe.stages.pyramids import generator_pyramids
from var_pe.stages.session import exit_with_sentence
from var_pe.stages.tokens import training_tokens
from var_pe.stages.train import train_generator, train_tokenizer
from var_pe.training.precision import autocast, settled

CLASSES = 10
TEST_IMAGES = 40  # few: theirs validates on none


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    reference_option(parser)
    add("--images", type=int, default=2000, metavar="N", help="training images; default: %(default)s")
    add("--epochs", type=int, default=3, metavar="N", help="passes over them; default: %(default)s")
    levels = (
        "sides of the levels' grids, coarse to fine, in tokens; an image's side is 16 times the last, in "
        "pixels; default: 1 2 3 4"
    )
    add("--levels", type=int, nargs="+", default=[1, 2, 3, 4], metavar="N", help=levels)
    channels = "width of the tokenizer (VAR's: 160); default: %(default)s"
    add("--channels", type=int, default=32, metavar="N", help=channels)
    add("--dim", type=int, default=192, metavar="N", help="width of the generator; default: %(default)s")
    add("--depth", type=int, default=6, metavar="N", help="blocks of the generator; default: %(default)s")
    add("--batch", type=int, default=64, metavar="N", help="images in a step; default: %(default)s")
    precision_option(parser)
    workers = "processes that read data, for ours and for the public code; default: %(default)s"
    add("--workers", type=int, default=0, metavar="N", help=workers)
    device_option(parser)
    json_option(parser)
    return parser.parse_args()


@exit_with_sentence()
def main() -> None:
    given = arguments()
    check_options(given, images=Positive, epochs=Positive, batch=Positive, channels=Positive)
    check_options(given, levels=list[Positive], dim=Positive, depth=Positive)
    check_device(given.device)
    if given.images < given.batch:
        raise ValueError(f"--images must be at least --batch ({given.batch}), got {given.images}")
    precision = settled(given.precision, torch.device(given.device).type)
    found: dict[str, object] = {"machine": machine(given.device), "images": given.images}
    found |= {"precision": precision}

    with tempfile.TemporaryDirectory(prefix="var_pe_epoch_") as name:
        folder = Path(name)
        make_images(folder / "pictures", given.images, 16 * given.levels[-1])
        config = config_of(folder, given)
        accelerator = Accelerator(cpu=torch.device(given.device).type == "cpu", mixed_precision="no")
        tokenizer = train_tokenizer(config, accelerator)  # for one step: a tokenizer as others are

        began = time.perf_counter()
        make_cache(config, tokenizer, accelerator)
        of_cache = time.perf_counter() - began
        train_generator(config, tokenizer, accelerator)
        ours = time.perf_counter() - began
        print(
            f"var_pe: {ours:.1f} s for {given.epochs} epochs in {precision}, "
            f"of which {of_cache:.1f} s for the token cache"
        )
        found |= {"var_pe": ours, "token cache": of_cache}

        if given.reference is not None:
            theirs = public_epochs(config, tokenizer, given)
            after_each = ", ".join(f"{seconds:.1f}" for seconds in theirs)
            print(f"VAR: {theirs[-1]:.1f} s; after each epoch: {after_each}")
            print(f"var_pe is {theirs[-1] / ours:.2f} times as fast")
            found["VAR"] = theirs

    if given.json is not None:
        write_json(given.json, found)


def make_images(folder: Path, number: int, size: int) -> None:
    """Training and test images a little larger than `size`, a quarter of them wider than high."""
    draw = torch.Generator().manual_seed(0)
    for split, count in (("train", number), ("val", TEST_IMAGES)):
        for index in range(count):
            rows = size * 5 // 4
            columns = rows if index % 4 else rows * 4 // 3
            coarse_3hw = torch.rand(1, 3, 6, 6, generator=draw)
            pixels_3HW = F.interpolate(coarse_3hw, (rows, columns), mode="bicubic").clamp(0, 1)[0]

            own = folder / split / f"class_{index % CLASSES}"
            own.mkdir(parents=True, exist_ok=True)
            pixels_HW3 = (255 * pixels_3HW).byte().permute(1, 2, 0).numpy()
            Image.fromarray(pixels_HW3).save(own / f"{index:06}.png")


def config_of(folder: Path, given: argparse.Namespace) -> Config:
    """VAR's tokenizer at the width asked for, and a generator, over the made-up folder."""
    size = 16 * given.levels[-1]
    every = ["log_every=50", "save_every=100000", "validate_every=0", "preview_every=0", "trackers=[]"]
    every += [f"batch={given.batch}", f"validation_images={TEST_IMAGES}", f"workers={given.workers}"]
    overrides = [
        f"run={folder / 'run'}",
        f"tokenizer_run={folder / 'tokenizer'}",
        "data.source=imagefolder",
        f"data.path={folder / 'pictures'}",
        f"data.height={size}",
        f"data.width={size}",
        "data.test_split=val",
        "data.framing=crop",
        f"tokenizer.levels={[[side, side] for side in given.levels]}",
        "tokenizer.codebook_size=4096",
        "tokenizer.latent_channels=32",
        f"tokenizer.channels={given.channels}",
        f"tokenizer.channel_multipliers={list(FIXED['channel_multipliers'])}",
        f"tokenizer.blocks_per_resolution={FIXED['blocks_per_resolution']}",
        "tokenizer.shortcut=false",
        "tokenizer_training.steps=1",
        f"generator.dim={given.dim}",
        f"generator.depth={given.depth}",
        f"generator.num_heads={max(1, given.dim // 64)}",
        f"generator_training.epochs={given.epochs}",
        f"generator_training.precision={given.precision}",
        *(f"tokenizer_training.{line}" for line in every),
        *(f"generator_training.{line}" for line in every),
    ]
    return settings.load(Config, None, overrides)


def make_cache(config: Config, tokenizer: VQTokenizer, accelerator: Accelerator) -> None:
    """The tokens of the training images, which `train_generator` then finds."""
    processes = Processes.of(accelerator)
    pyramids = generator_pyramids(config)
    sets = training_images_at(config, pyramids, tokenizer.downsampling, processes, config.tokenizer_seed)
    training_tokens(config, tokenizer.to(accelerator.device), sets, processes)


def public_epochs(config: Config, tokenizer: VQTokenizer, given: argparse.Namespace) -> list[float]:
    """Seconds since the start after each epoch of the public code's models over the same images."""
    began = time.perf_counter()
    generator = build_generator(config, CLASSES).to(given.device)
    vqvae, var = public_models(given.reference, tokenizer.to(given.device), generator)
    var.train()
    optimizer = torch.optim.AdamW(var.parameters(), lr=1e-4, betas=(0.9, 0.95), fused=True)

    data = importlib.import_module("utils.data")  # of the checkout, which `public_models` has put on the path
    with redirect_stdout(sys.stderr):  # it prints its transforms
        _, images, _ = data.build_dataset(config.data.path, config.data.height)
    loader = DataLoader(
        images,
        given.batch,
        shuffle=True,
        num_workers=given.workers,
        pin_memory=torch.device(given.device).type == "cuda",
        drop_last=True,
    )

    seconds = []
    for _ in range(given.epochs):
        for image_B3HW, label_B in loader:
            loss = public_loss(vqvae, var, image_B3HW.to(given.device), label_B.to(given.device), given)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(var.parameters(), 2.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        loss.item()  # waits for a GPU
        seconds.append(time.perf_counter() - began)
    return seconds


def public_loss(
    vqvae: nn.Module,
    var: nn.Module,
    image_B3HW: torch.Tensor,
    label_B: torch.Tensor,
    given: argparse.Namespace,
) -> torch.Tensor:
    """A step's loss as the public trainer computes it, the images encoded anew."""
    with torch.no_grad():
        tokens = vqvae.img_to_idxBl(image_B3HW)
        inputs_BLZ = vqvae.quantize.idxBl_to_var_input(tokens)
    with autocast(given.precision, torch.device(given.device).type):
        logits_BLV = var(label_B, inputs_BLZ)
    return F.cross_entropy(logits_BLV.flatten(0, 1), torch.cat(tokens, 1).flatten())


if __name__ == "__main__":
    main()
