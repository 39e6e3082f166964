"""Which places a classifier's answer rests on: Grad-CAM and EigenCAM, by the library `grad-cam`."""

from importlib.util import find_spec

import torch
from torch import Tensor, nn

from var_pe.models.classifier import Classifier
from var_pe.models.hierarchy.classifier import HierarchicalClassifier
from var_pe.models.hierarchy.lines import AttentionShape
from var_pe.models.layers import as_map
from var_pe.models.vit import ViTClassifier


def has_library() -> bool:
    """Whether the library is here, which not everybody needs."""
    return find_spec("pytorch_grad_cam") is not None


def check_library() -> None:
    """Checks that the library is here.

    Raises:
        ValueError: it is not.
    """
    if not has_library():
        raise ValueError(
            "Grad-CAM and EigenCAM are computed by grad-cam, which is not installed: pip install grad-cam "
            "(or var_pe with its extra: pip install -e '.[explain]')"
        )


def attributions(model: Classifier, images_BCHW: Tensor) -> dict[str, Tensor]:
    """Maps (B, H, W) in [0, 1] by the method's name, for the class that each image is taken for.

    Both look at the tokens that the last block is given, after its first norm; where norms come after the
    branches (Swin v2), at the tokens that the classes are read from. Grad-CAM (Selvaraju et al. 2017) weighs
    their channels by the mean gradient of the class; EigenCAM (Muhammad & Yeasin 2020) takes their first
    principal component, whatever the class, and of either sign.
    """
    from pytorch_grad_cam import EigenCAM, GradCAM

    target, prefix = last_tokens(model)
    with torch.no_grad():
        rows, columns = model.feature_maps(images_BCHW[:1])[-1].shape[2:]

    def as_maps(x_BLC: Tensor) -> Tensor:
        return as_map(x_BLC[:, prefix:], (rows, columns))

    found = {}
    for name, method in (("Grad-CAM", GradCAM), ("EigenCAM", EigenCAM)):
        with method(model=model, target_layers=[target], reshape_transform=as_maps) as cam:
            found[name] = torch.from_numpy(cam(input_tensor=images_BCHW, targets=None))
    model.zero_grad(set_to_none=True)
    return found


def last_tokens(model: Classifier) -> tuple[nn.Module, int]:
    """The norm whose tokens are looked at, and how many tokens come before the patches there."""
    if isinstance(model, ViTClassifier):
        return model.blocks[-1].get_submodule("norm1"), model.num_before_patches
    assert isinstance(model, HierarchicalClassifier), "there is no third kind"
    last = model.shapes[-1]
    if isinstance(last, AttentionShape) and last.norm == "post":
        # The first norm there sees what attention adds to the tokens, and not the tokens.
        return model.norm, 0
    return model.stages[-1].get_submodule("blocks")[-1].get_submodule("norm1"), 0
