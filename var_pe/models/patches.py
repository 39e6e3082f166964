"""From images to patches: one linear map a patch, whose kernel can be resampled, or a few convolutions."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from var_pe.pyramid import Grid, sides_of
from var_pe.resampling.conventions import DEFAULT_CONVENTION, Convention, interpolate_table
from var_pe.resampling.derived import DerivedCache
from var_pe.resampling.precision import full_precision
from var_pe.settings.fields import check_choice

Stem = Literal["patch", "convolutions"]
Padding = Literal["none", "end"]


def patches_of(height: int, width: int, patch_size: int, padding: Padding) -> Grid:
    """Rows and columns of the patches that a picture is cut into; padded, of those that hold a pixel of it.

    Raises:
        ValueError: they do not fill the picture, and it is not padded.
    """
    if padding == "none" and (height % patch_size or width % patch_size):
        raise ValueError(
            f"patch_size must divide the sides of the images, got {patch_size} for {height}x{width}; "
            f"padding=end of a plain ViT of pictures fills them up"
        )
    return -(-height // patch_size), -(-width // patch_size)


def padded(
    images_BCHW: Tensor, grid: Grid, patch_size: int, sizes: Sequence[Grid] | None
) -> tuple[Tensor, Tensor | None]:
    """Pictures filled up with zeros to the patches of `grid`, and which of these hold pixels, (B or 1, L).

    Pictures lie in the upper left corner. `sizes` are theirs (rows, columns) where a batch has several: what
    lies beyond is padding, and becomes zero. None in place of the second: every patch holds some.

    Raises:
        ValueError: there are not as many sizes as pictures, or one is not within the batch.
    """
    height, width = images_BCHW.shape[-2:]
    filled_BCHW = F.pad(images_BCHW, (0, grid[1] * patch_size - width, 0, grid[0] * patch_size - height))
    if sizes is None:
        return filled_BCHW, _held([(height, width)], grid, patch_size, images_BCHW.device)

    if len(sizes) != len(images_BCHW):
        raise ValueError(f"sizes are one for each picture, got {len(sizes)} for {len(images_BCHW)}")
    for rows, columns in (sides_of(size, "a size of a padded picture") for size in sizes):
        if rows > height or columns > width:
            raise ValueError(f"a size lies within the batch of {height}x{width} pixels, got {rows}x{columns}")

    # Chosen, not multiplied: whatever the padding holds, even NaN, is gone
    pixel_BHW = _within(sizes, (filled_BCHW.shape[-2], filled_BCHW.shape[-1]), images_BCHW.device)
    filled_BCHW = torch.where(pixel_BHW[:, None], filled_BCHW, 0.0)
    return filled_BCHW, _held(sizes, grid, patch_size, images_BCHW.device)


def _held(sizes: Sequence[Grid], grid: Grid, patch_size: int, device: torch.device) -> Tensor | None:
    """Which patches of `grid` hold pixels of pictures of these sizes, (sizes, L); None: all do, of each."""
    held = [patches_of(rows, columns, patch_size, "end") for rows, columns in sizes]
    return None if all(here == grid for here in held) else _within(held, grid, device).flatten(1)


def _within(sizes: Sequence[Grid], whole: Grid, device: torch.device) -> Tensor:
    """True in the first rows and columns, as many as each size has, (sizes, rows, columns)."""
    rows_B, columns_B = torch.tensor(sizes, device=device).unbind(1)
    row_h = torch.arange(whole[0], device=device)
    column_w = torch.arange(whole[1], device=device)
    return (row_h[:, None] < rows_B[:, None, None]) & (column_w < columns_B[:, None, None])


def resample_patch_kernel(
    kernel_OIhw: Tensor, new: Grid, convention: str | Convention = DEFAULT_CONVENTION
) -> Tensor:
    """The kernel for patches of `new` (height, width) that answers resampled patches as it did the old ones.

    FlexiViT (Beyer et al. 2023, equation 4): with B the matrix that resamples a patch, the pseudo-inverse of
    its transpose times the kernel. Exact where patches grow, the least squares where they shrink: start from
    the trained kernel each time rather than from a resampled one. `timm` resamples bicubic with antialiasing,
    `flexivit` (big_vision) bilinear.
    """
    old = (kernel_OIhw.shape[2], kernel_OIhw.shape[3])
    if old == new:
        return kernel_OIhw

    matrix_NP = _inverse_resize(old, new, convention, str(kernel_OIhw.device))
    with full_precision(kernel_OIhw):
        kernel_OIN = kernel_OIhw.flatten(2).float() @ matrix_NP.T
    return kernel_OIN.unflatten(2, new).to(kernel_OIhw.dtype)


@torch.compiler.assume_constant_result
def _inverse_resize(old: Grid, new: Grid, convention: str | Convention, device: str) -> Tensor:
    """`inverse_resize_on`, which a compiled graph takes as a constant."""
    return inverse_resize_on(old, new, convention, device)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # kept for later calls, which may train
def inverse_resize_on(old: Grid, new: Grid, convention: str | Convention, device: str) -> Tensor:
    """The pseudo-inverse of equation 4, float32 (new pixels, old pixels). Kept per device."""
    identity_PP = torch.eye(old[0] * old[1], dtype=torch.float64, device="cpu")
    resize_NP = interpolate_table(identity_PP, old, new, convention)
    return torch.linalg.pinv(resize_NP.T).float().to(device)


class PatchEmbedding(nn.Conv2d):
    """Cuts images into patches of `kernel_size` and maps each linearly; other sizes resample the kernel.

    The kernel that is stored and trained stays the one of `kernel_size`, however often the size changes.
    """

    def __init__(self, image_channels: int, dim: int, kernel: int, patch_size: int) -> None:
        super().__init__(image_channels, dim, kernel, stride=kernel)
        self.patch_size = patch_size
        self.resampled = DerivedCache()

    def forward(self, images_BCHW: Tensor) -> Tensor:
        new = (self.patch_size, self.patch_size)
        kernel_OIhw = self.weight
        if new != self.kernel_size:
            kernel_OIhw = self.resampled(self.weight, new, lambda: resample_patch_kernel(self.weight, new))
        return F.conv2d(images_BCHW, kernel_OIhw, self.bias, stride=new)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "PatchEmbedding":
        self.resampled.clear()
        return super()._apply(fn, recurse)


def build_stem(
    stem: Stem, image_channels: int, dim: int, patch_size: int, kernel: int | None = None
) -> nn.Module:
    """Images to a grid of `patch_size` times fewer rows and columns, (B, dim, h, w).

    A few convolutions instead of one linear map a patch make small ViTs learn faster (Xiao et al. 2021), but
    their zero padding tells the transformer where the border is, whatever the position encoding.
    """
    check_choice("stem", stem, Stem)

    if stem == "patch":
        return PatchEmbedding(image_channels, dim, kernel or patch_size, patch_size)

    if kernel not in (None, patch_size):
        raise ValueError(
            f"stem convolutions cannot change its patch size from {kernel} to {patch_size}; stem patch can"
        )
    halvings = patch_size.bit_length() - 1
    if halvings < 1 or 2**halvings != patch_size or dim % patch_size:
        raise ValueError(
            f"stem convolutions needs patch_size 2, 4, 8 ... to divide dim, got {patch_size} and {dim}"
        )

    # Each convolution of stride 2 doubles the width; the last one has the transformer's.
    widths = [image_channels, *(dim // 2**k for k in reversed(range(halvings)))]
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        for width, stride in ((before, 2), (after, 1)):
            layers += [nn.Conv2d(width, after, 3, stride, padding=1), nn.GroupNorm(1, after), nn.GELU()]

    return nn.Sequential(*layers, nn.Conv2d(dim, dim, 1))
