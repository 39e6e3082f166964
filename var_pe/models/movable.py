"""Loading a model at another size than it was saved at: built as it was saved, then moved."""

from collections.abc import Sequence
from typing import Any, ClassVar, Self

from diffusers.models.modeling_utils import ModelMixin

from var_pe.encodings import PositionEncoding
from var_pe.encodings.grids import KnowsGrids
from var_pe.pyramid import Pyramid


class Movable(ModelMixin):
    """A model whose size can change after it was built."""

    size_argument: ClassVar[str]  # the constructor's argument that says the size
    pyramid: Pyramid
    position_encoding: PositionEncoding
    class_parameters: ClassVar[str]  # how names of parameters begin that belong to the classes

    def move_to(self, size: Sequence[Any], resample: str | None) -> None:
        """To another value of `size_argument`."""
        raise NotImplementedError

    def _keep_grids(self, new: Pyramid) -> None:
        """Notes in the config, on leaving the first grids for `new`, what unmoved parameters were made for.

        Their shapes follow from these, and a saved copy is built before its weights are read.
        """
        parts = (module for module in self.modules() if isinstance(module, PositionEncoding))
        first = self.config["kept_grids"] is None and new != self.pyramid
        if first and any(part.keeps_grids for part in parts):
            self.register_to_config(kept_grids=[list(grid) for grid in self.pyramid.grids])

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Self:
        """diffusers' loader; a size given here is one to move to, not one to read the weights as.

        `resample` names the convention under which tables move to it.

        Raises:
            ValueError: a stored table belongs to other grids than the saved config says, or has to move and
                no `resample` says how.
        """
        size, resample = kwargs.pop(cls.size_argument, None), kwargs.pop("resample", None)
        loaded: Any = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        model = loaded[0] if kwargs.get("output_loading_info") else loaded
        for module in model.modules():
            if isinstance(module, KnowsGrids):
                module.check_grids()
        if size is not None:
            model.move_to(size, resample)
        return loaded
