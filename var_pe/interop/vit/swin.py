"""Swin and Swin v2 of timm as our classifier in stages, with the same logits.

Their windows, shifts and merging are ours; their tables of displacements are `relative_bias`, v2's networks
are `log_cpb`. timm's model says what the weights do not show.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from var_pe.interop.vit.names import ViTWeights
from var_pe.interop.vit.parts import BIASES, Settings, query_and_value_bias, read_stem
from var_pe.interop.vit.unseen import check_norms, class_of, gelu_of, unwrapped
from var_pe.models.hierarchy.attention import divisions_of
from var_pe.models.hierarchy.blocks import EPSILON
from var_pe.models.hierarchy.classifier import HierarchicalClassifier
from var_pe.models.hierarchy.division import Windows
from var_pe.models.hierarchy.lines import Windowed
from var_pe.pyramid import Sides, sides_of

V1 = "timm.models.swin_transformer.SwinTransformer"
V2 = "timm.models.swin_transformer_v2.SwinTransformerV2"


def is_swin(model: nn.Module) -> bool:
    """Whether a model of timm is one of the two."""
    return class_of(unwrapped(model)) in (V1, V2)


def convert_swin(
    weights: ViTWeights, like: nn.Module, mean: Sequence[float] | None, std: Sequence[float] | None
) -> HierarchicalClassifier:
    """A classifier in stages with copies of the weights; of `like` only the form is read.

    Raises:
        ValueError: a weight is missing, unknown, not finite or of another shape, or `like` computes what ours
            does not.
    """
    like = unwrapped(like)
    second = class_of(like) == V2
    check_norms(like, EPSILON)
    pool = vars(like)["global_pool"]
    if pool != "avg":
        raise ValueError(f"like= has global_pool {pool!r}, ours reads the mean over the last map")
    patches = vars(like.get_submodule("patch_embed"))
    height, width = patches["patch_size"]
    if height != width:
        raise ValueError(f"like= has patches of {height}x{width} pixels, ours are squares")
    if isinstance(dict(like.get_submodule("patch_embed").named_children()).get("norm"), nn.Identity):
        raise ValueError("like= has no norm after its patches, ours has one")

    # Each part reads its weights into `ours`.
    ours: dict[str, Tensor] = {}
    settings = read_stem(weights, height, mean, std, ours)
    dim = settings["dim"]
    _norm(weights, "patch_embed.norm", "stem_norm", dim, ours)

    # Blocks are alike: whoever has no bias at all is a model without.
    biases: tuple[str, ...] = BIASES[1] if second else BIASES[0]
    if not any(key.endswith(biases) for key in weights.state):
        biases = ()

    lines = []
    hidden = 0
    activations: list[nn.Module] = []
    for index, layer in enumerate(like.get_submodule("layers").children()):
        blocks = list(layer.get_submodule("blocks").children())
        wide = len(weights.take(f"layers.{index}.blocks.0.norm1.weight", -1))
        merging = f"layers.{index}.downsample"
        if f"{merging}.reduction.weight" in weights:
            norm_of = wide if second else 4 * dim
            reduction = weights.take(f"{merging}.reduction.weight", wide, 4 * dim)
            ours[f"stages.{index}.merging.reduction.weight"] = reduction
            _norm(weights, f"{merging}.norm", f"stages.{index}.merging.norm", norm_of, ours)
        dim = wide

        shape = _shape(blocks, dim, index, second)
        lines.append(shape.line())
        for number in range(len(blocks)):
            start = f"layers.{index}.blocks.{number}."
            hidden = len(weights.take(f"{start}mlp.fc1.weight", -1, dim))
            _block(weights, start, f"stages.{index}.blocks.{number}.", hidden, biases, ours)
        read = _networks if second else _tables
        read(weights, blocks, index, shape, ours)
        activations += blocks

    _norm(weights, "norm", "norm", dim, ours)
    settings |= _head(weights, dim, ours) | {"mlp_ratio": hidden / dim}
    weights.check_all_taken()

    with torch.device("meta"):
        model = HierarchicalClassifier(
            image_size=sides_of(patches["img_size"], "image_size"),
            hierarchy=lines,
            num_heads=1,  # each stage has its own
            encoding="none",  # and this, too
            qk_norm=second,
            gelu=gelu_of(activations, "mlp.act"),
            **settings,
        )
    _check_windows(model, like)
    model.load_state_dict(ours, assign=True)
    return model.eval()


def _shape(blocks: list[nn.Module], dim: int, index: int, second: bool) -> Windowed:
    """A stage as our line writes it; `_check_windows` finds out whether its windows are the same."""
    first = vars(blocks[0])
    return Windowed(
        blocks=len(blocks),
        dim=dim,
        stride=1 if index == 0 else 2,
        heads=vars(blocks[0].get_submodule("attn"))["num_heads"],
        encoding=_line(blocks[0]) if second else "relative_bias",
        norm="post" if second else "pre",
        window=max(first["window_size"]),
        shift=any(any(vars(block)["shift_size"]) for block in blocks) or len(blocks) == 1,
    )


def _line(block: nn.Module) -> str:
    hidden = block.get_parameter("attn.cpb_mlp.0.weight").shape[0]
    return "log_cpb" if hidden == 512 else f"log_cpb(hidden={hidden})"


def _check_windows(model: HierarchicalClassifier, like: nn.Module) -> None:
    """Whether every block of timm's has the windows and shifts that ours has.

    Raises:
        ValueError: one has others; or windows do not fill the map, which timm's then see beyond.
    """
    for index, layer in enumerate(like.get_submodule("layers").children()):
        shape, grid = model.shapes[index], model.pyramid.grids[-1 - index]
        assert isinstance(shape, Windowed), "all stages of Swin are"
        divisions = divisions_of(shape, grid)
        for number, block in enumerate(layer.get_submodule("blocks").children()):
            theirs = (tuple(vars(block)["window_size"]), tuple(vars(block)["shift_size"]))
            division = divisions[number % len(divisions)]
            own: tuple[Sides, Sides] = (grid, (0, 0))
            if isinstance(division, Windows):
                own = (division.window, division.shift)
                if division.filled != grid:
                    raise ValueError(
                        f"like= has windows of {own[0]} cells on a map of {grid} cells, which they do not "
                        f"fill: timm's see zeros beyond it, ours do not; take a size whose maps they fill"
                    )
            if theirs != own:
                raise ValueError(
                    f"like= has windows of {theirs[0]} cells shifted by {theirs[1]} in block {number} of "
                    f"stage {index + 1}, ours has {own[0]} shifted by {own[1]}"
                )


def _norm(weights: ViTWeights, name: str, own: str, dim: int, ours: dict[str, Tensor]) -> None:
    for part in ("weight", "bias"):
        ours[f"{own}.{part}"] = weights.take(f"{name}.{part}", dim)


def _block(
    weights: ViTWeights,
    start: str,
    own: str,
    hidden: int,
    biases: tuple[str, ...],
    ours: dict[str, Tensor],
) -> None:
    dim = len(weights.take(f"{start}norm1.weight", -1))
    _norm(weights, f"{start}norm1", f"{own}norm1", dim, ours)
    _norm(weights, f"{start}norm2", f"{own}norm2", dim, ours)
    for name, shape in (("attn.proj", (dim, dim)), ("mlp.fc1", (hidden, dim)), ("mlp.fc2", (dim, hidden))):
        ours[f"{own}{name}.weight"] = weights.take(f"{start}{name}.weight", *shape)
        ours[f"{own}{name}.bias"] = weights.take(f"{start}{name}.bias", shape[0])
    ours[f"{own}attn.qkv.weight"] = weights.take(f"{start}attn.qkv.weight", 3 * dim, dim)

    for name, bias_C in query_and_value_bias(weights, start, biases, dim).items():
        ours[own + name.removeprefix(start)] = bias_C


def _tables(
    weights: ViTWeights, blocks: list[nn.Module], index: int, shape: Windowed, ours: dict[str, Tensor]
) -> None:
    """v1: a number a head for each displacement in a window, query minus key, row by row as ours."""
    window = vars(blocks[0])["window_size"]
    rows, columns = (2 * side - 1 for side in window)
    tables = []
    for number in range(len(blocks)):
        name = f"layers.{index}.blocks.{number}.attn.relative_position_bias_table"
        table_RH = weights.take(name, rows * columns, shape.heads)
        tables.append(table_RH.T.unflatten(1, (rows, columns)))
    ours[f"stages.{index}.position_encoding.table_NHyx"] = torch.stack(tables)
    ours[f"stages.{index}.position_encoding.grids_K2"] = torch.tensor([list(window)])


def _networks(
    weights: ViTWeights, blocks: list[nn.Module], index: int, shape: Windowed, ours: dict[str, Tensor]
) -> None:
    """v2: a network a block, and a temperature a head; ours is as if built for `pretrained_window_size`."""
    found: dict[str, list[Tensor]] = {"weight1": [], "bias1": [], "weight2": []}
    for number in range(len(blocks)):
        start = f"layers.{index}.blocks.{number}.attn."
        weight1 = weights.take(f"{start}cpb_mlp.0.weight", -1, 2)
        found["weight1"].append(weight1)
        found["bias1"].append(weights.take(f"{start}cpb_mlp.0.bias", len(weight1)))
        found["weight2"].append(weights.take(f"{start}cpb_mlp.2.weight", shape.heads, len(weight1)))
        scale_H11 = weights.take(f"{start}logit_scale", shape.heads, 1, 1)
        ours[f"stages.{index}.blocks.{number}.attn.log_scale_H"] = scale_H11[:, 0, 0]
    for name, one_each in found.items():
        ours[f"stages.{index}.position_encoding.cells.{name}"] = torch.stack(one_each)

    options = vars(blocks[0].get_submodule("attn"))
    trained = options["pretrained_window_size"]
    window = trained if trained[0] > 0 else options["window_size"]
    ours[f"stages.{index}.position_encoding.trained_2"] = torch.tensor(window)


def _head(weights: ViTWeights, dim: int, ours: dict[str, Tensor]) -> Settings:
    if "head.fc.weight" not in weights and "head.fc.bias" not in weights:
        return {"num_classes": 0}
    ours["head.weight"] = weights.take("head.fc.weight", -1, dim)
    ours["head.bias"] = weights.take("head.fc.bias", len(ours["head.weight"]))
    return {"num_classes": len(ours["head.weight"])}
