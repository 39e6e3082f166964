"""What a ViT's weights do not show, read from the library's own model; what ours has not is refused."""

from dataclasses import dataclass

from torch import nn

from var_pe.models.layers import GELUS
from var_pe.pyramid import sides_of

# of a ViT's LayerNorms, ours among them
EPSILON = 1e-6

# the classes whose forward pass is the one of our ViT, for each source that gives models
MODELS = {
    "timm": (
        "timm.models.vision_transformer.VisionTransformer",
        "timm.models.vision_transformer_relpos.VisionTransformerRelPos",
        "timm.models.beit.Beit",
    ),
    "torchvision": ("torchvision.models.vision_transformer.VisionTransformer",),
}

# their blocks that norm before each branch; others have the same names and norm after it
BLOCKS = (
    "timm.models.vision_transformer.Block",
    "timm.models.vision_transformer_relpos.RelPosBlock",
    "timm.models.beit.Block",
    "torchvision.models.vision_transformer.EncoderBlock",
)

POOLS = {"token": "class_token", "avg": "mean"}  # timm's names


@dataclass(frozen=True)
class Unseen:
    """What is said beside the weights."""

    image_size: tuple[int, int]
    patch_size: int
    num_heads: int
    pool: str
    gelu: str
    # whether there is an absolute or a relative table
    positions: bool


def unseen_in(model: nn.Module, source: str) -> Unseen:
    """Read from the library's model, whose weights are not looked at: it may lie on the meta device.

    Raises:
        ValueError: it is of another class, or computes what our ViT does not.
    """
    model = unwrapped(model)
    if source not in MODELS:
        raise ValueError(
            f"like= is a model of {' or '.join(MODELS)}: {source} publishes one form of its ViTs"
        )
    if class_of(model) not in MODELS[source]:
        known = ", ".join(name.rpartition(".")[2] for name in MODELS[source])
        raise ValueError(
            f"like= must be one of {source}'s {known}, whose parts are known, got {class_of(model)}"
        )

    blocks = _blocks(model)
    if source == "torchvision":
        check_norms(model)
        heads = vars(blocks[0].get_submodule("self_attention"))["num_heads"]
        sides = (vars(model)["image_size"],) * 2
        return Unseen(sides, vars(model)["patch_size"], heads, "class_token", gelu_of(blocks, "mlp.1"), True)

    pool = _pool(model)
    _check_parts(model, blocks)
    check_norms(model)
    patches = vars(model.get_submodule("patch_embed"))
    height, width = patches["patch_size"]
    if height != width:
        raise ValueError(f"like= has patches of {height}x{width} pixels, ours are squares")
    return Unseen(
        image_size=sides_of(patches["img_size"], "image_size"),
        patch_size=height,
        num_heads=vars(blocks[0].get_submodule("attn"))["num_heads"],
        pool=pool,
        gelu=gelu_of(blocks, "mlp.act"),
        positions=_has_positions(model),
    )


def unwrapped(model: nn.Module) -> nn.Module:
    """Out of `torch.compile` and DDP."""
    for name in ("_orig_mod", "module"):
        inner = dict(model.named_children()).get(name)
        if inner is not None and len(dict(model.named_children())) == 1:
            model = inner
    return model


def class_of(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _blocks(model: nn.Module) -> list[nn.Module]:
    """Blocks in order, all of a known kind."""
    parts = dict(model.named_children())
    blocks = list(
        (parts["blocks"] if "blocks" in parts else model.get_submodule("encoder.layers")).children()
    )
    if not blocks:
        raise ValueError("like= has no blocks")

    for block in blocks:
        if class_of(block) not in BLOCKS:
            raise ValueError(
                f"like= has blocks of the kind {type(block).__name__}, ours norm before attention and before "
                f"the feed-forward layers, which follow one another"
            )
    return blocks


def _check_parts(model: nn.Module, blocks: list[nn.Module]) -> None:
    """What weights would show, too, but by names that say less."""
    parts = dict(model.named_children())
    if not isinstance(parts.get("norm_pre", nn.Identity()), nn.Identity):
        raise ValueError("like= has a norm before its blocks (norm_pre), ours has none")
    if all(isinstance(parts.get(name, nn.Identity()), nn.Identity) for name in ("norm", "fc_norm")):
        raise ValueError("like= has no norm after its blocks, ours has one")

    for block in blocks:
        attention, layers = (type(block.get_submodule(name)).__name__ for name in ("attn", "mlp"))
        if attention not in ("Attention", "RelPosAttention"):
            raise ValueError(f"like= has attention of the kind {attention}, which is not built here")
        if layers != "Mlp":
            raise ValueError(f"like= has feed-forward layers of the kind {layers}, ours are two linear maps")


def check_norms(model: nn.Module, epsilon: float = EPSILON) -> None:
    """Refuses a norm that is not ours.

    Raises:
        ValueError: there is one.
    """
    for name, module in model.named_modules():
        if "Norm" not in type(module).__name__:
            continue
        if not isinstance(module, nn.LayerNorm):
            raise ValueError(f"like= has {type(module).__name__} at {name}, ours has LayerNorm")
        if module.eps != epsilon:
            raise ValueError(f"like= has epsilon {module.eps:g} at {name}, our norms have {epsilon:g}")


def gelu_of(blocks: list[nn.Module], path: str) -> str:
    """Our name for the activation of all blocks."""
    found = set()
    for block in blocks:
        part, _, name = path.partition(".")
        activation = dict(block.get_submodule(part).named_children()).get(name)
        kind = type(activation).__name__
        if kind == "GELUTanh":
            found.add("tanh")
        elif kind == "GELU":
            form = vars(activation).get("approximate", "none")
            found |= {ours for ours, theirs in GELUS.items() if theirs == form}
        else:
            raise ValueError(f"like= has the activation {kind}, ours are GELU, {' or '.join(GELUS)}")

    if len(found) > 1:
        raise ValueError("like= has blocks of several activations, ours have one")
    return found.pop()


def _pool(model: nn.Module) -> str:
    """Our name for what timm's model reads its classes from."""
    options = vars(model)
    pool = options["global_pool"]
    if dict(model.named_children()).get("attn_pool") is not None or pool not in POOLS:
        raise ValueError(f"like= has global_pool {pool!r}, ours reads the class token or the mean")
    if pool == "avg" and options.get("pool_include_prefix") and options["num_prefix_tokens"]:
        raise ValueError("like= has pool_include_prefix, our mean is over the patches alone")
    return POOLS[pool]


def _has_positions(model: nn.Module) -> bool:
    names = [name for name, _ in model.named_parameters()]
    if any("rel_pos.mlp" in name for name in names):
        raise ValueError("like= has relative positions from a small network (rel_pos.mlp), ours from tables")
    return any(name == "pos_embed" or "rel_pos" in name or "relative_position" in name for name in names)
