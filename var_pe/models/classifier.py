"""What all classifiers are: images in [-1, 1] of a size to features, and features to classes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from var_pe.models.patches import Padding, patches_of
from var_pe.models.resizable import Resizable
from var_pe.pyramid import Grid, Pyramid, sides_of


@dataclass(frozen=True)
class MapShape:
    """One of the maps that a classifier gives for dense prediction."""

    width: int
    # pixels of the image from one cell to the next
    stride: int


class ImageModel(Resizable):
    """A model of images of a size, made of the blocks of classifiers."""

    size_argument = "image_size"
    # what FSDP shards as one piece, the blocks of all classifiers; None in diffusers
    _no_split_modules = ["Block", "DividedBlock", "MapBlock", "ConvolutionBlock"]  # type: ignore[assignment]  # noqa: RUF012
    _repeated_blocks = _no_split_modules
    _supports_gradient_checkpointing = True

    def set_input_size(self, image_size: Sequence[int], resample: str | None = None) -> None:
        """Images of another size from now on, and in a saved copy."""
        raise NotImplementedError

    def move_to(self, size: Sequence[int | Sequence[int]], resample: str | None) -> None:
        self.set_input_size(sides_of(size, "image_size"), resample)


class Classifier(ImageModel):
    """A model for one size of images, or for every size where it is `dynamic`; 0 classes: without a head."""

    class_parameters = "head."

    image_size: tuple[int, int]
    patch_size: int
    padding: Padding = "none"
    dynamic: bool
    head: nn.Module

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        nn.init.trunc_normal_(parameter, std=0.02, generator=generator)

    @property
    def blocks_by_stage(self) -> list[int]:
        """How many blocks each stage has; a plain ViT is one."""
        raise NotImplementedError

    def set_input_size(self, image_size: Sequence[int], resample: str | None = None) -> None:
        """Images of another size from now on, and in a saved copy.

        `resample` names the convention under which a learned table moves to the new grid (`timm`,
        `torchvision` ...). What moves is a new parameter: make the optimizer afterwards.

        Raises:
            ValueError: a side does not fit, or a table has to move and no `resample` says how.
        """
        height, width = sides_of(image_size, "image_size")
        self._move_encoding(self._grids((height, width)), resample)
        self.image_size = (height, width)
        self.register_to_config(image_size=[height, width])

    def _grids(self, image_size: tuple[int, int]) -> Pyramid:
        """The model's grids for images of a size.

        Raises:
            ValueError: a side does not fit.
        """
        raise NotImplementedError

    def _patches(self, image_size: tuple[int, int]) -> Grid:
        """Rows and columns of the patches that an image is cut into.

        Raises:
            ValueError: they do not fill it, and it is not padded.
        """
        return patches_of(*image_size, self.patch_size, self.padding)

    def _pyramid_of(self, images_BCHW: Tensor) -> Pyramid:
        height, width = images_BCHW.shape[-2:]
        if self.dynamic:
            return self._grids((height, width))
        if (height, width) != self.image_size:
            raise ValueError(
                f"the classifier is set to grids of {self.pyramid}, got images of {height}x{width}; "
                f"set_input_size changes it, dynamic=true takes every image's own size"
            )
        return self.pyramid

    @property
    def map_shapes(self) -> list[MapShape]:
        """Width and stride of each of `feature_maps`."""
        raise NotImplementedError

    def feature_maps(self, images_BCHW: Tensor) -> list[Tensor]:
        """What is known of every place, (B, C, h, w), from the finest map to the coarsest.

        The last one is normalised. Class token and registers, which have no place, are left out.
        """
        raise NotImplementedError

    def pooled(self, images_BCHW: Tensor) -> Tensor:
        """The features that the classes are read from, (B, C)."""
        raise NotImplementedError

    def forward_head(self, features_BC: Tensor) -> Tensor:
        return self.head(features_BC)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Class logits, (B, classes)."""
        return self.forward_head(self.pooled(images_BCHW)).float()


def check_classes(num_classes: int) -> None:
    """Refuses a head that tells nothing apart.

    Raises:
        ValueError: there is one class, or the number is negative.
    """
    if num_classes < 0 or num_classes == 1:
        raise ValueError(f"a classifier needs at least two classes, got {num_classes} (0: features alone)")
