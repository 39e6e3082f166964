"""Base class of models on a classifier's maps: the classifier without classes, described in their config."""

from collections.abc import Mapping, Sequence
from typing import Any

from var_pe.encodings import PositionEncoding
from var_pe.models.classifier import Classifier, ImageModel
from var_pe.models.hierarchy.classifier import HierarchicalClassifier
from var_pe.models.vit import ViTClassifier
from var_pe.pyramid import Pyramid, sides_of

CLASSIFIERS: dict[str, type[ViTClassifier] | type[HierarchicalClassifier]] = {
    cls.__name__: cls for cls in (ViTClassifier, HierarchicalClassifier)
}


class DenseModel(ImageModel):
    """An `encoder`, any classifier of ours without a head, and below it what reads its maps.

    Made from the encoder's description (`described`), which is saved in config.json and follows its size.
    No module may have the name of a constructor's argument, under which diffusers would give that.
    """

    encoder: ViTClassifier | HierarchicalClassifier

    def position_encodings(self) -> dict[str, PositionEncoding]:
        of_encoder = self.encoder.position_encodings()
        return {f"encoder.{name}": encoding for name, encoding in of_encoder.items()} | self._own_encodings()

    def _own_encodings(self) -> dict[str, PositionEncoding]:
        """Position encodings beside those of the encoder, for its last map."""
        return {}

    def describe_encoder(self) -> None:
        """Writes the encoder's present description into the config."""
        self.register_to_config(encoder_config=described(self.encoder))

    def set_input_size(self, image_size: Sequence[int], resample: str | None = None) -> None:
        """Images of another size from now on, and in a saved copy; as `Classifier.set_input_size`.

        Raises:
            ValueError: a side does not fit, or a table has to move and no `resample` says how.
        """
        before = self.encoder.pyramid.grids[0]
        self.encoder.set_input_size(sides_of(image_size, "image_size"), resample)
        self.describe_encoder()

        own, last = self._own_encodings().values(), self.encoder.pyramid.grids[0]
        for encoding in own:
            encoding.set_pyramid(Pyramid.of([last]), resample)
            encoding.to(self.device)

        # As `Resizable` notes of a model's only encoding
        parts = [
            part for encoding in own for part in encoding.modules() if isinstance(part, PositionEncoding)
        ]
        first = self.config["kept_grids"] is None and last != before
        if first and any(part.keeps_grids for part in parts):
            self.register_to_config(kept_grids=[list(before)])


def described(encoder: Classifier) -> dict[str, object]:
    """The name of the encoder's class and the arguments that make another one like it."""
    arguments = {name: value for name, value in encoder.config.items() if not name.startswith("_")}
    return {"_class_name": type(encoder).__name__, **arguments}


def encoder_of(described: Mapping[str, Any]) -> ViTClassifier | HierarchicalClassifier:
    """The encoder that a description means, its initial weights by its own seed.

    Raises:
        ValueError: it describes no classifier of ours, or one with classes.
    """
    name = described.get("_class_name")
    if name not in CLASSIFIERS:
        raise ValueError(f"encoder_config describes one of {', '.join(CLASSIFIERS)}, got {name!r}")
    if described.get("num_classes") != 0:
        raise ValueError(f"an encoder has no classes of its own, got {described.get('num_classes')}")
    if described.get("padding", "none") != "none":
        raise ValueError(
            f"models on maps need pictures of whole patches: leave classifier.padding at none, got "
            f"{described['padding']}"
        )
    arguments = {key: value for key, value in described.items() if key != "_class_name"}
    return CLASSIFIERS[str(name)](**arguments)
