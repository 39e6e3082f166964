"""Features that cannot see where things are must not be used to say where an encoding puts them."""

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from var_pe import settings
from var_pe.comparison.extractor_check import check_extractor
from var_pe.evaluation.features import FeatureExtractor, Features
from var_pe.stages.config import Config
from var_pe.stages.features import feature_extractor

CONFIG = settings.load(Config, "shapes_learned.yaml", ["data.shapes_test=200"])


class Blind(FeatureExtractor):
    """The colours of a picture, wherever they are."""

    name, weights_sha256 = "blind", ""

    def describe(self, images_BCHW: Tensor) -> Features:
        sorted_BCN = images_BCHW.flatten(2).sort(-1).values
        features_BF = sorted_BCN[..., ::128].flatten(1)
        return Features(features_BF, torch.zeros(len(features_BF), 2))


@pytest.mark.parametrize(
    ("name", "sees"),
    [
        ("blind", False),
        pytest.param("efficientnet_lite0_spatial", True, marks=pytest.mark.slow),
    ],
)
def test_moved_quarters_are_seen_or_not(name, sees):
    """Averages over the picture would call a generator good that puts everything in the wrong place."""
    extractor = Blind() if name == "blind" else feature_extractor(name)
    found = check_extractor(CONFIG, extractor, Accelerator())
    assert found.sees_places == sees
    assert found.images == 100
