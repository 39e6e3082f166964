"""Records what other libraries answer, for tests that hold where these are missing or have changed.

    python tests/golden/conventions.py

Writes `conventions.safetensors` beside itself, with the libraries' versions in its metadata. A key tells the
case: `timm/4x6/7x5/5` is a table of 4x6 cells and 5 prefix rows moved to 7x5, `table/4x6` what it was.
Only what a library computes itself is recorded: nothing stands in for DINOv2's or FlexVAR's own code.
"""

import itertools
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

FILE = Path(__file__).with_suffix(".safetensors")
LIBRARIES = ("timm", "torchvision", "scipy", "diffusers", "torch", "numpy")
MOVES = [((4, 6), (7, 5)), ((4, 4), (2, 8)), ((6, 6), (9, 9)), ((6, 6), (3, 3))]


def name(*parts: object) -> str:
    return "/".join("x".join(map(str, part)) if isinstance(part, tuple) else str(part) for part in parts)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def tables() -> Iterator[tuple[str, Tensor]]:
    """timm's function under its own arguments and those of others, torchvision's, scipy's zoom."""
    from scipy.ndimage import zoom
    from timm.layers import resample_abs_pos_embed
    from torchvision.models.vision_transformer import interpolate_embeddings

    for old, new in MOVES:
        table_LC = noise(5 + old[0] * old[1], 2)
        yield name("table", old), table_LC
        for prefix in (0, 1, 5):
            moved = resample_abs_pos_embed(
                table_LC[None, 5 - prefix :], list(new), list(old), num_prefix_tokens=prefix
            )
            yield name("timm", old, new, prefix), moved[0]
        for convention, options in (
            ("swin", dict(antialias=False)),
            ("flexivit", dict(interpolation="bilinear")),
        ):
            moved = resample_abs_pos_embed(
                table_LC[None, 5:], list(new), list(old), num_prefix_tokens=0, **options
            )
            yield name(convention, old, new, 0), moved[0]
        zoomed = zoom(table_LC[5:].unflatten(0, old).numpy(), (new[0] / old[0], new[1] / old[1], 1), order=1)
        yield name("big_vision", old, new, 0), torch.from_numpy(zoomed).flatten(0, 1)
        if old[0] == old[1] and new[0] == new[1]:
            for mode in ("bicubic", "bilinear"):
                state = {"encoder.pos_embedding": table_LC[None, 4:]}
                moved = interpolate_embeddings(new[0] * 16, 16, state, mode)["encoder.pos_embedding"]
                yield (
                    name("torchvision" if mode == "bicubic" else "torchvision_bilinear", old, new, 1),
                    moved[0],
                )


def kernels() -> Iterator[tuple[str, Tensor]]:
    """Patch kernels in other sizes."""
    from timm.layers import resample_patch_embed

    yield "kernel/6x6", noise(2, 1, 6, 6)
    for new in [(8, 8), (3, 3), (2, 9)]:
        yield name("patches", (6, 6), new), resample_patch_embed(noise(2, 1, 6, 6), list(new))


def codes() -> Iterator[tuple[str, Tensor]]:
    """Sines and cosines that are added to tokens, of raw indices."""
    from diffusers.models.embeddings import get_2d_sincos_pos_embed
    from timm.layers import build_sincos2d_pos_embed

    yield "sinusoidal/timm/2x3", build_sincos2d_pos_embed([2, 3], dim=8)
    yield (
        "sinusoidal/mae/3x3",
        get_2d_sincos_pos_embed(8, 3, base_size=3, output_type="pt").float(),
    )


def rotations() -> Iterator[tuple[str, Tensor]]:
    """Vectors of 8 channels, two heads, turned by each of timm's rotary encodings on a grid of 2x3."""
    from timm.layers import RotaryEmbeddingCat, RotaryEmbeddingDinoV3, RotaryEmbeddingMixed
    from timm.layers.pos_embed_sincos import apply_rot_embed_cat

    x_BHLD, grid = noise(1, 2, 6, 8), [2, 3]
    yield "vectors", x_BHLD
    axial = RotaryEmbeddingCat(8, temperature=100.0, in_pixels=False)
    yield "rope/axial/2x3", apply_rot_embed_cat(x_BHLD, axial.get_embed(grid))
    dinov3 = RotaryEmbeddingDinoV3(8)
    yield "rope/dinov3/2x3", apply_rot_embed_cat(x_BHLD, dinov3.get_embed(grid), half=True)
    mixed = RotaryEmbeddingMixed(16, depth=2, num_heads=2, grid_indexing="ij")
    mixed.freqs.data = noise(2, 2, 2, 4)
    yield "frequencies", mixed.freqs.detach()
    for layer in (0, 1):
        turned = apply_rot_embed_cat(x_BHLD, mixed.get_embed(grid)[layer])
        yield name("rope/mixed/2x3", layer), turned.detach()


def displacements() -> Iterator[tuple[str, Tensor]]:
    """Which row of a relative table two tokens read, and Swin v2's coordinates of displacements."""
    from timm.layers.pos_embed_rel import gen_relative_log_coords, gen_relative_position_index

    for grid in [(2, 3), (3, 1)]:
        yield name("index", grid), gen_relative_position_index(grid)
    for grid, trained in [((2, 3), (4, 4)), ((3, 2), (3, 2))]:
        yield (
            name("log_coordinates", grid, trained),
            gen_relative_log_coords(grid, pretrained_win_size=trained),
        )


def record() -> dict[str, Tensor]:
    """Everything, by key."""
    found = itertools.chain(tables(), kernels(), codes(), rotations(), displacements())
    return {key: value.detach().clone().contiguous() for key, value in found}


if __name__ == "__main__":
    save_file(record(), FILE, metadata={library: version(library) for library in LIBRARIES})
    print(f"wrote {FILE.name}, {FILE.stat().st_size} bytes")
