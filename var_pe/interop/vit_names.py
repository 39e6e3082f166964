"""The names of a ViT's weights in timm, torchvision and DINOv2, and reading a state dict by them."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

# timm's names are the ones we ask by; what the others call these parts, innermost last
THEIRS: dict[str, list[tuple[str, str]]] = {
    "timm": [],
    "torchvision": [
        (r"^cls_token$", "class_token"),
        (r"^pos_embed$", "encoder.pos_embedding"),
        (r"^patch_embed\.proj\.", "conv_proj."),
        (r"^norm\.", "encoder.ln."),
        (r"^head\.", "heads.head."),
        (r"^blocks\.(\d+)\.", r"encoder.layers.encoder_layer_\1."),
        (r"\.norm([12])\.", r".ln_\1."),
        (r"\.attn\.qkv\.", ".self_attention.in_proj_"),
        (r"\.attn\.proj\.", ".self_attention.out_proj."),
        (r"\.mlp\.fc1\.", ".mlp.0."),
        (r"\.mlp\.fc2\.", ".mlp.3."),
    ],
    "dinov2": [(r"^reg_token$", "register_tokens")],
}
# what their models have whatever their options
ALWAYS = {
    "timm": ("patch_embed.proj.weight",),
    "torchvision": ("patch_embed.proj.weight", "cls_token", "pos_embed", "blocks.0.attn.qkv.bias"),
    "dinov2": ("patch_embed.proj.weight", "cls_token", "pos_embed"),
}
# not weights that a forward pass reads: a token of masked training, an index that follows from the grid
IGNORED = {"timm": r"relative_position_index$", "torchvision": r"^$", "dinov2": r"^mask_token$"}


class ViTWeights:
    """A state dict asked by timm's names, whatever its source; sentences name the source's own.

    Raises:
        ValueError: the source is not known, or the state dict is another's or none.
    """

    def __init__(self, state_dict: Mapping[str, Any], source: str) -> None:
        if source not in tuple(THEIRS):
            raise ValueError(f"source is one of {', '.join(THEIRS)}, got {source!r}")
        if not isinstance(state_dict, Mapping):
            raise ValueError(
                f"the {source} state dict must map names to tensors, got {type(state_dict).__name__}"
            )
        for key, value in state_dict.items():
            if not isinstance(key, str) or not isinstance(value, Tensor):
                raise ValueError(
                    f"the {source} state dict must map names to tensors, "
                    f"got {key!s:.60}: {type(value).__name__}"
                )
        self.source, self.taken = source, set[str]()
        self.state = {
            re.sub(r"\.mlp\.linear_([12])\.", lambda m: f".mlp.{3 * int(m[1]) - 3}.", key): value
            for key, value in state_dict.items()  # torchvision's names before 0.13
            if not re.search(IGNORED[source], key)
        }
        for name in ALWAYS[source]:
            if name not in self:
                raise ValueError(
                    f"the {source} state dict lacks {self.theirs(name)}; is it another library's?"
                )

    def theirs(self, name: str) -> str:
        for pattern, replacement in THEIRS[self.source]:
            name = re.sub(pattern, replacement, name)
        return name

    def __contains__(self, name: str) -> bool:
        return self.theirs(name) in self.state

    @property
    def depth(self) -> int:
        """How many blocks there are."""
        start = self.theirs("blocks.0.").removesuffix("0.")
        found = re.compile(re.escape(start) + r"(\d+)\.")
        return 1 + max((int(match[1]) for key in self.state if (match := found.match(key))), default=-1)

    def form(self, *forms: tuple[str, ...]) -> tuple[str, ...]:
        """Of several ways to name parts of a block the first that any block uses at all; () if none does.

        Blocks are alike: whoever takes all of its names from every block finds what a block lacks.
        """
        blocks = [f"blocks.{block}." for block in range(self.depth)]
        return next((form for form in forms if any(b + name in self for b in blocks for name in form)), ())

    def take(self, name: str, *shape: int) -> Tensor:
        """A float32 copy of finite numbers that must be there, in this shape; -1 is any length but 0."""
        key = self.theirs(name)
        if key not in self.state:
            raise ValueError(f"the {self.source} state dict lacks {key}")
        value = self.state[key]
        found = tuple(value.shape)
        wrong = 0 in found or any(n not in (-1, f) for n, f in zip(shape, found, strict=False))
        if wrong or len(found) != len(shape):
            wanted = " x ".join("any" if n == -1 else str(n) for n in shape)
            raise ValueError(f"the {self.source} state dict: {key} must be {wanted}, got {found}")
        if not value.is_floating_point():
            raise ValueError(f"the {self.source} state dict: {key} must be floating-point, got {value.dtype}")
        self.taken.add(key)
        weight = value.detach().to(torch.float32, copy=True)
        if not weight.isfinite().all():
            raise ValueError(f"the {self.source} state dict: {key} holds NaN or infinite values")
        return weight

    def check_all_taken(self) -> None:
        """Raises:
        ValueError: there is a weight that nobody asked for."""
        if rest := sorted(set(self.state) - self.taken):
            more = f" and {len(rest) - 3} more" if len(rest) > 3 else ""
            raise ValueError(
                f"the {self.source} state dict has what our ViT has no counterpart for: "
                f"{', '.join(rest[:3])}{more}"
            )
