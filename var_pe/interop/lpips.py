"""LPIPS (Zhang et al. 2018): VGG16 with torchvision's ImageNet weights and LPIPS's linear heads.

Both come from local files, or from where torchvision and the authors publish them.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from var_pe.models.feature_stages import VGG16Stages
from var_pe.models.foreign_weights import read_state

BACKBONE_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
HEADS_URL = "https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1/vgg.pth"
HEADS_NAME = "lpips-vgg.pth"


def load_lpips(backbone: Path | None, heads: Path | None) -> VGG16Stages:
    """VGG16 as LPIPS uses it; None downloads the file once into torch.hub's folder.

    Raises:
        ValueError: a file is missing, cannot be downloaded, or holds other tensors.
    """
    for file, setting in ((backbone, "vgg16_weights"), (heads, "lpips_weights")):
        if file is not None and not file.is_file():  # before the other one is downloaded
            raise ValueError(f"tokenizer_training.perceptual.{setting}={file} is not a file")
    backbone = backbone or downloaded(BACKBONE_URL, Path(BACKBONE_URL).name, "vgg16_weights")
    heads = heads or downloaded(HEADS_URL, HEADS_NAME, "lpips_weights")

    # The heads are convolutions of one output channel without bias.
    found = read_state(heads)
    names = [f"lin{stage}.model.1.weight" for stage in range(5)]
    if not isinstance(found, Mapping) or set(found) != set(names):
        raise ValueError(f"lpips_weights {heads} must hold {names[0]} to {names[-1]} and nothing else")
    weights = [found[name].flatten().float() for name in names]

    network = VGG16Stages(weights)
    if [len(weight_C) for weight_C in weights] != list(network.channels):
        raise ValueError(f"lpips_weights {heads} are not of VGG16, which has {network.channels} channels")

    state = read_state(backbone)
    ours = {name for name in network.state_dict() if name.startswith("features.")}
    if not isinstance(state, Mapping) or not ours <= set(state):
        raise ValueError(f"vgg16_weights {backbone} must hold torchvision's {min(ours)} and so on")
    taken: dict[str, Tensor] = {name: state[name] for name in ours}
    try:
        network.load_state_dict(taken, strict=False)
    except RuntimeError as error:
        raise ValueError(
            f"vgg16_weights {backbone} are not of VGG16: {' '.join(str(error).split())}"
        ) from None
    return network


def downloaded(url: str, name: str, setting: str) -> Path:
    """The file in torch.hub's folder, fetched if it is not there; checked where its name has its hash."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    prefix = "".join(re.findall(r"-([0-9a-f]{8})\.pth", name))
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=prefix or None, progress=False)
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"tokenizer_training.perceptual.network=vgg16 needs {url}, which could not be downloaded "
                f"({error}): give a copy as tokenizer_training.perceptual.{setting}=FILE, or take "
                f"efficientnet_lite0, whose weights a package brings"
            ) from None

    if not hashlib.sha256(path.read_bytes()).hexdigest().startswith(prefix):
        raise ValueError(
            f"{path} is damaged, its sha256 does not begin with {prefix}: delete it and run again"
        )
    return path
