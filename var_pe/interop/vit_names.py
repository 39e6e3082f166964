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
# not weights that a forward pass reads: a token of masked training, an index that follows from the grid
IGNORED = {"timm": r"relative_position_index$", "torchvision": r"^$", "dinov2": r"^mask_token$"}


class ViTWeights:
    """A state dict asked by timm's names, whatever its source; sentences name the source's own.

    Raises:
        ValueError: the source is not known, or the state dict is another's.
    """

    def __init__(self, state_dict: Mapping[str, Any], source: str) -> None:
        if source not in THEIRS:
            raise ValueError(f"source is one of {', '.join(THEIRS)}, got {source!r}")
        self.source, self.taken = source, set[str]()
        self.state = {
            re.sub(r"\.mlp\.linear_([12])\.", lambda m: f".mlp.{3 * int(m[1]) - 3}.", key): value
            for key, value in state_dict.items()  # torchvision's names before 0.13
            if not re.search(IGNORED[source], key)
        }
        kernel = self.theirs("patch_embed.proj.weight")
        if kernel not in self.state:
            raise ValueError(f"the {source} state dict lacks {kernel}; is it another library's?")

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

    def take(self, name: str, *shape: int) -> Tensor:
        """A float32 copy of a tensor that must be there, in this shape; -1 is any length."""
        key = self.theirs(name)
        if key not in self.state:
            raise ValueError(f"the {self.source} state dict lacks {key}")
        value = self.state[key]
        found = tuple(value.shape)
        if len(found) != len(shape) or any(n not in (-1, f) for n, f in zip(shape, found, strict=True)):
            wanted = " x ".join("any" if n == -1 else str(n) for n in shape)
            raise ValueError(f"the {self.source} state dict: {key} must be {wanted}, got {found}")
        self.taken.add(key)
        return value.detach().to(torch.float32, copy=True)

    def check_all_taken(self) -> None:
        """Raises:
        ValueError: there is a weight that nobody asked for."""
        if rest := sorted(set(self.state) - self.taken):
            more = f" and {len(rest) - 3} more" if len(rest) > 3 else ""
            raise ValueError(
                f"the {self.source} state dict has what our ViT has no counterpart for: "
                f"{', '.join(rest[:3])}{more}"
            )
