"""Images with the patches of each that a model is not shown, drawn from (seed, epoch, index)."""

import torch
from torch import Tensor
from torch.utils.data import Dataset

from var_pe.data.changed_images import ChangedImages
from var_pe.data.image_set import HeldOutImages, ImageItem, ImageSet
from var_pe.data.sampler import Draw
from var_pe.data.token_cache import TokenDataset
from var_pe.pyramid import Grid
from var_pe.seeding import generator_for


class HiddenItem(ImageItem):
    """An image, and which of its patches are hidden."""

    # bool, row by row, (L,)
    hidden: Tensor


def number_hidden(grid: Grid, share: float, block: int) -> int:
    """How many patches of a grid are hidden in every image: a share of its squares of `block` patches a side.

    Raises:
        ValueError: such squares do not fill the grid, or all or none would be hidden.
    """
    rows, columns = grid
    if rows % block or columns % block:
        raise ValueError(f"hidden_block={block} does not divide the grid of {rows}x{columns} patches")
    squares = (rows // block) * (columns // block)
    hidden = round(share * squares)
    if not 0 < hidden < squares:
        raise ValueError(
            f"hidden_share={share:g} of {squares} squares hides {hidden} of them: at least one must be "
            "hidden and one shown"
        )
    return hidden * block**2


def hide(grid: Grid, share: float, block: int, generator: torch.Generator) -> Tensor:
    """Which patches are hidden, bool (L,): `number_hidden` of them, in squares drawn evenly.

    Squares of more than one patch are SimMIM's (Xie et al. 2022): neighbours say too much of a single one.
    """
    rows, columns = grid[0] // block, grid[1] // block
    number = number_hidden(grid, share, block) // block**2
    squares = torch.zeros(rows * columns, dtype=torch.bool)
    squares[torch.randperm(len(squares), generator=generator)[:number]] = True
    map_hw = squares.unflatten(0, (rows, columns))
    return map_hw.repeat_interleave(block, 0).repeat_interleave(block, 1).flatten()


class HiddenWithTokens(HiddenItem):
    """The same with the tokens that a tokenizer makes of the image."""

    # int64, of all levels
    tokens: Tensor


class HeldOutHidden(Dataset[HiddenItem]):
    """Held-out images, of each of which the same patches are hidden every time."""

    def __init__(self, images: HeldOutImages, grid: Grid, share: float, block: int) -> None:
        self.images, self.grid = images, grid
        self.share, self.block = share, block

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> HiddenItem:
        generator = generator_for("hidden patches of held-out images", index)
        hidden = hide(self.grid, self.share, self.block, generator)
        return {**self.images[index], "hidden": hidden}


class HiddenPatches(ChangedImages[HiddenItem]):
    """Training images, of which other patches are hidden in every epoch."""

    def __init__(self, images: ImageSet, grid: Grid, share: float, block: int, seed: int) -> None:
        super().__init__(images)
        self.images, self.seed = images, seed
        self.grid, self.share, self.block = grid, share, block

    def __getitem__(self, key: Draw | int) -> HiddenItem:
        draw = Draw.of(key)
        generator = generator_for(self.seed, "hidden patches", draw.epoch, draw.index)
        return {**self.images[draw], "hidden": hide(self.grid, self.share, self.block, generator)}


class WithTokens(ChangedImages[HiddenWithTokens]):
    """Training images whose tokens are known, since no image looks different in another epoch."""

    def __init__(self, images: HiddenPatches, tokens: TokenDataset) -> None:
        super().__init__(images)
        self.images, self.tokens = images, tokens

    def __getitem__(self, key: Draw | int) -> HiddenWithTokens:
        return {**self.images[key], "tokens": self.tokens[key]["tokens"]}
