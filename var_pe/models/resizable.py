"""Loading a model at another size than it was saved at: built as it was saved, then moved."""

from collections.abc import Sequence
from os import PathLike
from typing import Any, ClassVar, Self

from var_pe.encodings import PositionEncoding, as_saved
from var_pe.models.folder import SavedModel
from var_pe.pyramid import Pyramid
from var_pe.resampling.conventions import convention_of
from var_pe.resampling.grid_bound import GridBound


class Resizable(SavedModel):
    """A model whose size can change after it was built."""

    pyramid: Pyramid
    position_encoding: PositionEncoding
    # how the names of parameters begin that belong to the classes
    class_parameters: ClassVar[str]

    def move_to(self, size: Sequence[int | Sequence[int]], resample: str | None) -> None:
        """To another value of `size_argument`."""
        raise NotImplementedError

    def position_encodings(self) -> dict[str, PositionEncoding]:
        """All that know the model's grids, by their names in it."""
        return {"position_encoding": self.position_encoding}

    def register_to_config(self, **kwargs: object) -> None:
        """diffusers' own; but what is set anew no longer counts as left at its default.

        `from_config` takes the default for what counts so, which would undo a move.
        """
        if "_internal_dict" in self.__dict__:
            untouched = self.config.get("_use_default_values", [])
            kwargs["_use_default_values"] = [name for name in untouched if name not in kwargs]
        super().register_to_config(**kwargs)

    @classmethod
    def extract_init_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> tuple[dict[str, Any], ...]:
        """diffusers' own, for a model that was saved: its encoding's line keeps the meaning it had then."""
        line = config_dict.get("encoding")
        if isinstance(line, str):
            config_dict = {**config_dict, "encoding": as_saved(line)}
        return super().extract_init_dict(config_dict, **kwargs)

    def _move_encoding(self, new: Pyramid, resample: str | None) -> None:
        """The position encodings to the grids of `new`, which `self.pyramid` is then set to.

        Parameters that do not move keep shapes that follow from the first grids: the config notes those,
        since a saved copy is built before its weights are read.
        """
        if resample is not None:
            convention_of(resample)  # a wrong name is an error even where nothing has to move

        self._set_pyramid(new, resample)
        for encoding in self.position_encodings().values():
            encoding.to(self.device, self.dtype)  # terms of levels that were not there before

        parts = (module for module in self.modules() if isinstance(module, PositionEncoding))
        first = self.config["kept_grids"] is None and new != self.pyramid
        if first and any(part.keeps_grids for part in parts):
            self.register_to_config(kept_grids=[list(grid) for grid in self.pyramid.grids])

        self.pyramid = new

    def _set_pyramid(self, new: Pyramid, resample: str | None) -> None:
        self.position_encoding.set_pyramid(new, resample)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | PathLike[str] | None, **kwargs: Any
    ) -> Self:
        """diffusers' loader; a size given here is one to move to, not one to read the weights as.

        `resample` names the convention under which tables move to it.

        Raises:
            ValueError: a stored table belongs to other grids than the saved config, or a table has to move
                without a `resample`.
        """
        size = kwargs.pop(cls.size_argument, None)
        resample = kwargs.pop("resample", None)

        # Built as it was saved.
        loaded: Any = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        model = loaded[0] if kwargs.get("output_loading_info") else loaded
        for module in model.modules():
            if isinstance(module, GridBound):
                module.check_grids()

        # Then moved.
        if size is not None:
            model.move_to(size, resample)
        return loaded
