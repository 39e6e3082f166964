"""FID's Inception, torch-fidelity's, so that its numbers compare with papers.

torch-fidelity 0.4.0 reads weights with `weights_only=False`, which lets the file run code; here the file is
read without that, and torch-fidelity gets a copy that holds tensors only.
"""

import hashlib
import re
import tempfile
from pathlib import Path

import torch
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

from var_pe.evaluation.features import FeatureExtractor, Features
from var_pe.models.foreign_weights import read_state

LAYERS = ("2048", "logits_unbiased")
FILE_NAME = Path(URL_INCEPTION_V3).name


def load_inception(weights: Path | None) -> tuple[FeatureExtractorInceptionV3, str]:
    """The network that returns features and unbiased logits of uint8 images, and its weights file's sha256.

    Raises:
        ValueError: no file and no network, or a file with anything else than the network's tensors.
    """
    path = _download() if weights is None else Path(weights)
    state = _read(path)

    # The constructor takes a path and nothing else.
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / FILE_NAME
        torch.save(state, copy)
        try:
            model = FeatureExtractorInceptionV3(
                "inception", list(LAYERS), feature_extractor_weights_path=str(copy)
            )
        except RuntimeError as error:
            detail = " ".join(str(error).split())[:200]
            raise ValueError(
                f"--inception-weights {path} has other tensors than torch-fidelity's {FILE_NAME}: {detail}"
            ) from None

    return model.to(memory_format=torch.channels_last), hashlib.sha256(path.read_bytes()).hexdigest()


def _download() -> Path:
    """The weights in torch.hub's folder, fetched if they are not there; the file's name carries its hash."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / FILE_NAME
    prefix = re.findall(r"-([0-9a-f]{8})\.pth", FILE_NAME)[0]

    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), hash_prefix=prefix, progress=False)
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"Inception's weights could not be downloaded from {URL_INCEPTION_V3} ({error}): give a copy "
                f"with --inception-weights FILE, or use --features efficientnet_lite0, which needs no network"
            ) from None

    if not hashlib.sha256(path.read_bytes()).hexdigest().startswith(prefix):
        raise ValueError(
            f"{path} is damaged, its sha256 does not begin with {prefix}: delete it and run again"
        )
    return path


def _read(path: Path) -> dict[str, Tensor]:
    try:
        state = read_state(path)
    except ValueError as error:
        raise ValueError(f"--inception-weights {error}") from error

    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"--inception-weights {path} must hold a flat dict of tensors and nothing else")
    return state


class InceptionFeatures(FeatureExtractor):
    """FID's Inception (TensorFlow's of 2015, resize included) as torch-fidelity rebuilds it: 2,048 features.

    The logits are without bias, as the Inception score of papers has them.

    Args:
        weights: torch-fidelity's weights file; None downloads it once into torch.hub's folder.
    """

    name = "inception"
    comparable = True

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        self.model, self.weights_sha256 = load_inception(weights)

    def describe(self, images_BCHW: Tensor) -> Features:
        images_BCHW = images_BCHW.expand(-1, 3, -1, -1)
        features_BF, logits_BV = self.model(images_BCHW.to(torch.uint8))  # the network takes only bytes
        return Features(features_BF, logits_BV)
