"""A classifier of our own as a feature extractor, for pictures unlike those of ImageNet, and for clips."""

from torch import Tensor

from var_pe.evaluation.features import FeatureExtractor, Features
from var_pe.models.classifier import Classifier
from var_pe.models.clips import ClipClassifier
from var_pe.models.hierarchy.clips import HierarchicalClipClassifier


class ClassifierFeatures(FeatureExtractor):
    """Features and logits of a classifier trained on the same data, which is put into evaluation mode.

    Args:
        model: takes images in [-1, 1], of the size and channels it was trained on.
        name: how the scores are labelled, for instance `fashion_vit`.
    Raises:
        ValueError: from a call, if the images are in colour and the classifier is not, or of another size.
    """

    def __init__(self, model: Classifier, name: str, weights_sha256: str) -> None:
        super().__init__()
        self.model = model.eval()
        self.name = name
        self.weights_sha256 = weights_sha256
        self.channels = int(model.config["image_channels"])
        self.axes = 5 if isinstance(model, ClipClassifier | HierarchicalClipClassifier) else 4

    def describe(self, images_BCHW: Tensor) -> Features:
        channels = images_BCHW.shape[-3]
        if channels > self.channels:
            raise ValueError(
                f"{self.name} classifies pictures of {self.channels} channel, but these have {channels}: "
                "name a classifier of colour pictures"
            )
        if channels < self.channels:
            images_BCHW = images_BCHW.repeat_interleave(self.channels, dim=-3)

        try:
            features_BF = self.model.pooled(images_BCHW / 127.5 - 1)
        except ValueError as error:  # images of another size
            raise ValueError(f"{self.name}: {error}") from error
        return Features(features_BF, self.model.forward_head(features_BF))
