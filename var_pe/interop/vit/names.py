"""The names of a ViT's weights in timm, torchvision and DINOv2, and reading a state dict by them."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from var_pe.interop.state_dicts import plain_weights

# Weights are asked for by timm's names; here is what the others call these parts, innermost last.
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

# not weights that a forward pass reads: a token of masked training, what follows from the grid
IGNORED = {
    "timm": r"(relative_position_index|relative_coords_table|attn_mask)$",
    "torchvision": r"^$",
    "dinov2": r"^mask_token$",
}


# a name by which other checkpoints are known, and what a sentence says about them
OTHERS = {
    "embeddings.patch_embeddings.projection.weight": "Hugging Face transformers, which is not read",
    "visual.conv1.weight": "OpenAI's CLIP or open_clip, which are not read",
    "encoder.conv1.weight": "a convolutional network, not of a ViT",
    "conv_proj.weight": "source torchvision",
    "patch_embed.proj.weight": "source timm or dinov2",
}


class ViTWeights:
    """A state dict read by timm's names, whatever its source; error sentences use the source's own names.

    Wrappers are taken off, as `plain_weights` does, and `entry` goes there.

    Raises:
        ValueError: the source is not known, or the state dict is not one, or another library's.
    """

    def __init__(self, state_dict: object, source: str, entry: Sequence[str] = ()) -> None:
        if source not in tuple(THEIRS):
            raise ValueError(f"source is one of {', '.join(THEIRS)}, got {source!r}")

        self.source = source
        self.taken: set[str] = set()
        self.state: dict[str, Tensor] = {}
        for key, value in plain_weights(state_dict, f"the {source} state dict", entry).items():
            if not re.search(IGNORED[source], key):
                self.state[_as_of_today(key)] = value

        for name in ALWAYS[source]:
            if name not in self:
                raise ValueError(f"the {source} state dict lacks {self.theirs(name)}; {self._instead(name)}")

    def _instead(self, name: str) -> str:
        """A guess, from the names that are there, at what the state dict is."""
        below = [key for key in self.state if key.endswith(f".{self.theirs(name)}")]
        if below:
            wrapper = below[0].removesuffix(self.theirs(name))
            return f"it has {below[0]}: take {wrapper} off the names, and names without it away"
        for mark, words in OTHERS.items():
            found = [key for key in self.state if key == mark or key.endswith(f".{mark}")]
            if found and self.source not in words:
                return f"its {found[0]} is a name of {words}"
        return "is it another library's?"

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
        numbers = [re.match(re.escape(start) + r"(\d+)\.", key) for key in self.state]
        return 1 + max((int(number[1]) for number in numbers if number), default=-1)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a weight that is there, with a length in every axis.

        Raises:
            ValueError: it has no axis, or one of no length.
        """
        found = tuple(self.state[self.theirs(name)].shape)
        if not found or 0 in found:
            raise ValueError(
                f"the {self.source} state dict: {self.theirs(name)} must be a weight, got {found}"
            )
        return found

    @property
    def channels(self) -> int:
        """Of the images."""
        kernel = self.shape("patch_embed.proj.weight")
        return kernel[1] if len(kernel) == 4 else 0

    @property
    def classes(self) -> int:
        """How many the head tells apart; 0 without a head."""
        for name in ("head.weight", "head.fc.weight"):  # the second is Swin's
            if name in self:
                return self.shape(name)[0]
        return 0

    def form(self, *forms: tuple[str, ...]) -> tuple[str, ...]:
        """Of several ways to name parts of a block the first that any block uses at all; () if none does.

        Blocks are alike: whoever takes all of its names from every block finds what a block lacks.
        """
        for form in forms:
            if any(f"blocks.{block}.{name}" in self for block in range(self.depth) for name in form):
                return form
        return ()

    def take(self, name: str, *shape: int) -> Tensor:
        """A float32 copy of finite numbers that must be there, in this shape; -1 is any length but 0."""
        key = self.theirs(name)
        if key not in self.state:
            raise ValueError(f"the {self.source} state dict lacks {key}")

        value = self.state[key]
        found = tuple(value.shape)
        fits = len(found) == len(shape) and 0 not in found
        if not fits or any(side not in (-1, there) for side, there in zip(shape, found, strict=True)):
            wanted = " x ".join("any" if n == -1 else str(n) for n in shape)
            raise ValueError(f"the {self.source} state dict: {key} must be {wanted}, got {found}")
        if not value.is_floating_point():
            raise ValueError(f"the {self.source} state dict: {key} must be floating-point, got {value.dtype}")

        weight = value.detach().to(torch.float32, copy=True)
        if not weight.isfinite().all():
            raise ValueError(f"the {self.source} state dict: {key} holds NaN or infinite values")
        self.taken.add(key)
        return weight

    def check_all_taken(self) -> None:
        """Refuses a state dict with a weight that was not taken: our ViT would not compute the same.

        Raises:
            ValueError: there is one.
        """
        rest = sorted(set(self.state) - self.taken)
        if rest:
            more = f" and {len(rest) - 3} more" if len(rest) > 3 else ""
            raise ValueError(
                f"the {self.source} state dict has what our ViT has no counterpart for: "
                f"{', '.join(rest[:3])}{more}"
            )


def _as_of_today(key: str) -> str:
    """torchvision 0.12 and earlier called the two layers of an MLP linear_1 and linear_2."""
    return key.replace(".mlp.linear_1.", ".mlp.0.").replace(".mlp.linear_2.", ".mlp.3.")
