"""Small ViTs of other libraries, with weights that all matter; 32 x 48 pixels in patches of 8, or squares."""

import torch
from timm.models.beit import Beit
from timm.models.vision_transformer import VisionTransformer as TimmViT
from timm.models.vision_transformer_relpos import VisionTransformerRelPos
from torchvision.models import VisionTransformer as TorchvisionViT

SMALL = dict(embed_dim=32, depth=2, num_heads=4, num_classes=5)


def loud(model: torch.nn.Module) -> torch.nn.Module:
    """Weights that all matter: fresh ones are too small, or zero, to show a mistake."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 1
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * max(fan_in, 4) ** -0.5)
    return model.eval()


def pictures(height: int, width: int) -> torch.Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def timm_vit(size=(32, 48), **options) -> TimmViT:
    return loud(TimmViT(img_size=size, patch_size=8, **(SMALL | options)))


def relative_vit(**options) -> VisionTransformerRelPos:
    """A table of displacements in every block, or one for all; no class token."""
    given = SMALL | dict(img_size=(32, 48), patch_size=8, rel_pos_type="bias", qkv_bias=True) | options
    return loud(VisionTransformerRelPos(class_token=False, **given))


def beit(foldable: bool = True, **options) -> Beit:
    """Tables with class rows; `foldable`: a class token's bias to itself is the one to the patches."""
    given = SMALL | dict(img_size=(32, 48), patch_size=8, use_rel_pos_bias=True, init_values=0.1) | options
    model = loud(Beit(**given))
    if foldable:
        with torch.no_grad():
            for block in model.blocks:
                table_RH = block.attn.relative_position_bias_table
                table_RH[-1] = table_RH[-3]
    return model


def torchvision_vit(size: int = 32) -> TorchvisionViT:
    return loud(TorchvisionViT(size, 8, 2, 4, 32, 64, num_classes=5))


def dinov2_state(registers: int) -> tuple[TimmViT, dict[str, torch.Tensor]]:
    """timm's form of the model and DINOv2's of its weights: the class token has a place, registers none."""
    options = dict(init_values=1.0, num_classes=0, reg_tokens=registers, no_embed_class=True)
    theirs = timm_vit((32, 32), **options)
    state, row_1LC = theirs.state_dict(), torch.full((1, 1, 32), 0.5)
    state["cls_token"] = state["cls_token"] - row_1LC
    state["pos_embed"] = torch.cat([row_1LC, state["pos_embed"]], dim=1)
    if registers:
        state["register_tokens"] = state.pop("reg_token")
    return theirs, state | {"mask_token": torch.zeros(1, 32)}
