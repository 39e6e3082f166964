"""A plain ViT as a program whose images may have any size.

Positions follow from the sides by formula, and learned tables are resampled in the program.
"""

import copy

from torch import Tensor, nn

from var_pe.encodings import PositionEncoding
from var_pe.encodings.base import REGISTRY
from var_pe.interop.export.parts import LEAST_PATCHES, FreeSizes, Part, noise
from var_pe.models.vit import ViTClassifier
from var_pe.pyramid import Grid
from var_pe.resampling.conventions import DEFAULT_CONVENTION, convention_of
from var_pe.resampling.grid_bound import GridBound


def any_size_parts(model: nn.Module, resample: str = DEFAULT_CONVENTION) -> list[Part]:
    """Images in [-1, 1] of any whole numbers of patches to what the classifier gives at that size.

    At another size than its own that is what `set_input_size` with `resample` and `dynamic` make of it; a
    table whose encoding has a convention of its own keeps that.

    Raises:
        ValueError: the model, or an encoding in it, has one size.
    """
    plain = checked(model)
    dynamic = copy.deepcopy(plain)
    dynamic.dynamic = True
    for part in dynamic.position_encoding.modules():
        if isinstance(part, GridBound):
            part.resample = part.resample or convention_of(resample, "--resample")
            part.any_size_in_programs = True

    rows, columns = (max(LEAST_PATCHES, side) for side in plain.pyramid.finest)
    traced = (rows, columns + (rows == columns))  # of a square, columns could be taken for rows
    others = (
        (rows + 1, columns + 3),
        (2 * rows, max(LEAST_PATCHES, columns // 2)),
        (max(LEAST_PATCHES, rows // 2), 2 * columns + 1),
    )

    def examples_of(batch: int, grid: Grid) -> dict[str, Tensor]:
        height, width = (cells * plain.patch_size for cells in grid)
        return {"images": noise(batch, plain.config["image_channels"], (height, width))}

    sizes = FreeSizes(plain.patch_size, traced, others, examples_of)
    return [
        Part(
            "classifier",
            dynamic,
            lambda batch: examples_of(batch, (rows, columns)),
            {"images": 0},
            ("logits",),
            sizes,
        )
    ]


def checked(model: nn.Module) -> ViTClassifier:
    """The model, if a program of it can serve every size.

    Raises:
        ValueError: it cannot; the sentence says why, and what can be done.
    """
    instead = "export one size with --size"
    if not isinstance(model, ViTClassifier):
        raise ValueError(
            f"--any-size is for plain ViTs of images, whose one grid follows from the sides, got "
            f"{type(model).__name__}: {instead}"
        )
    if model.padding != "none":
        raise ValueError(
            f"--any-size: padding={model.padding} looks at the size of every image, which a program of all "
            f"sizes cannot: {instead}"
        )
    for name, reason in bound_to_size(model.position_encoding).items():
        raise ValueError(f"--any-size: {name} serves one size in a program: {reason}; {instead}")
    return model


def bound_to_size(encoding: PositionEncoding) -> dict[str, str]:
    """Which encodings in this one have one size in a program, by name, and why."""
    names = {member: name for name, member in REGISTRY.items()}
    reasons = {}
    for part in encoding.modules():
        if not isinstance(part, PositionEncoding) or type(part) not in names:
            continue
        if part.one_size_because:
            reasons[names[type(part)]] = part.one_size_because
    return reasons
