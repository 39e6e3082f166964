"""The generator as a diffusers pipeline: class labels in, images out, saved and loaded as one folder."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from torch import Tensor

from var_pe.models.generator import VARTransformer
from var_pe.models.tokenizer import VQTokenizer

OUTPUT_TYPES = ("pil", "np", "pt", "latent", "tokens")


@dataclass(frozen=True)
class SamplingConfig:
    guidance_scale: float = 1.5  # VAR's convention: 0 is none; in diffusers' convention the weight is 1 + it
    guidance_schedule: str = "linear"  # linear (from 0 at the first level) | constant
    temperature: float = 1.0  # above 0; below 1 is more cautious
    top_k: int = 0  # draw among the likeliest k codes; 0: all
    top_p: float = 0.0  # draw among the likeliest codes of this mass together; 0: all
    images_per_class: int = 100  # images of each class; without classes, of the whole
    batch: int = 100  # images drawn together; does not change them
    seed: int = 0  # of the images


class VARPipeline(DiffusionPipeline):
    """Class-conditional next-scale generation (Tian et al. 2024).

    Args of the constructor:
        class_names: names by label; `()` where the classes have none.
    """

    model_cpu_offload_seq = "transformer->tokenizer"  # type: ignore[assignment]

    @register_to_config
    def __init__(
        self, tokenizer: VQTokenizer, transformer: VARTransformer, class_names: Sequence[str] = ()
    ) -> None:
        super().__init__()
        if class_names and transformer is not None and len(class_names) != transformer.num_classes:
            raise ValueError(
                f"class_names: one for each of {transformer.num_classes} classes or none, "
                f"got {len(class_names)}"
            )
        self.register_modules(tokenizer=tokenizer, transformer=transformer)
        self.class_names = tuple(class_names)
        self.image_processor = VaeImageProcessor()

    def labels(self, class_labels: int | str | Sequence[int | str | None] | None) -> list[int]:
        """Class labels, by number or by name, as numbers; None is unconditional.

        Raises:
            ValueError: there is no such class.
        """
        one = isinstance(class_labels, str) or not isinstance(class_labels, Iterable)
        if one or getattr(class_labels, "ndim", 1) == 0:  # a 0-d tensor is Iterable in name only
            class_labels = [class_labels]  # type: ignore[list-item]
        return [self._label(label) for label in class_labels]  # type: ignore[union-attr]

    def _label(self, label: int | str | None) -> int:
        number = self.transformer.num_classes
        if label is None:
            return number
        if isinstance(label, str):
            if label not in self.class_names:
                known = ", ".join(self.class_names) or "none with a name"
                raise ValueError(f"class_labels: there is no class {label!r}; there are {known}")
            return self.class_names.index(label)
        if not hasattr(label, "__index__"):
            raise ValueError(f"class_labels are numbers, names or None, got {label!r}")
        if not number:
            raise ValueError(f"the generator has no classes: class_labels must be None, got {label}")
        if not 0 <= index(label) < number:
            raise ValueError(f"class_labels must lie in 0 .. {number - 1} (None: unconditional), got {label}")
        return index(label)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: int | str | Sequence[int | str | None] | None = None,
        guidance_scale: float = 1.5,
        guidance_schedule: str | Sequence[float] = "linear",
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 0.0,
        num_images_per_label: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_level_end: Callable[["VARPipeline", int, dict[str, Any]], None] | None = None,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Images of the given classes, `num_images_per_label` of each in turn.

        `generator`: one for each image makes it independent of its batch; a single one seeds them in order.
        `guidance_scale`: 0 is none (see `var_pe.models.choice.guidance_per_level`).
        `output_type`: pil | np (BHWC) or pt (BCHW) in [0, 1] | latent (B, Z, h, w) | tokens (B, L).
        `callback_on_level_end(pipeline, level, {"latents": ...})` sees the running latent map.

        Raises:
            ValueError: a label, a setting or the number of generators is wrong.
        """
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type is one of {', '.join(OUTPUT_TYPES)}, got {output_type!r}")
        if num_images_per_label < 1:
            raise ValueError(f"num_images_per_label must be at least 1, got {num_images_per_label}")
        device = self._execution_device
        labels = [label for label in self.labels(class_labels) for _ in range(num_images_per_label)]
        if not labels:
            raise ValueError("class_labels: at least one label (None: unconditional), got none")
        drawn = self.transformer.generate(
            self.tokenizer,
            torch.tensor(labels, device=device),
            generators=one_each(generator, len(labels)),
            guidance_scale=guidance_scale,
            guidance_schedule=guidance_schedule,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            on_level=None
            if callback_on_level_end is None
            else lambda level, f_hat_BZhw: callback_on_level_end(self, level, {"latents": f_hat_BZhw}),
        )
        images = self._output(drawn.tokens_BL, drawn.f_hat_BZhw, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _output(self, tokens_BL: Tensor, f_hat_BZhw: Tensor, output_type: str) -> Any:
        if output_type == "tokens":
            return tokens_BL
        if output_type == "latent":
            return f_hat_BZhw
        images_BCHW = self.tokenizer.reconstruct(f_hat_BZhw.to(self.tokenizer.dtype)).clamp(-1, 1).float()
        return self.image_processor.postprocess(images_BCHW, output_type=output_type)


def one_each(
    generator: torch.Generator | Sequence[torch.Generator] | None, number: int
) -> list[torch.Generator]:
    """A generator for each image: as given, or seeded in order from the one given, else from torch's own."""
    if generator is not None and not isinstance(generator, torch.Generator):
        if len(generator) != number:
            raise ValueError(
                f"generator: one for each image or a single one, got {len(generator)} for {number} images"
            )
        return list(generator)
    device = "cpu" if generator is None else generator.device
    seeds = torch.randint(2**62, (number,), generator=generator, device=device).tolist()
    return [torch.Generator().manual_seed(seed) for seed in seeds]
