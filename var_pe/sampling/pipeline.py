"""The generator as a diffusers pipeline: class labels in, images out, saved and loaded as one folder."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import index
from typing import SupportsIndex, cast

import numpy as np
import torch
from diffusers.configuration_utils import register_to_config
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from var_pe.data.class_names import no_such_class
from var_pe.models.generator import Drawn, VARTransformer, Walk
from var_pe.models.tokenizer import VQTokenizer
from var_pe.pyramid import Pyramid
from var_pe.sampling.config import SamplingConfig
from var_pe.sampling.fast import FastWalk
from var_pe.sampling.names import refuse_others
from var_pe.sampling.rejection import (
    Classifier,
    best_of,
    children,
    draws_per_image,
    likelihood_of_labels,
)
from var_pe.sampling.saved import SavedPipeline

OUTPUT_TYPES = ("pil", "np", "pt", "latent", "tokens")

# what a pipeline is asked for, by number or by name, and what it gives
ClassLabels = int | str | Sequence[int | str | None] | None
Images = list[Image.Image] | NDArray[np.float32] | Tensor

Callback = Callable[["VARPipeline", int, dict[str, Tensor]], None]


@dataclass
class VARPipelineOutput(ImagePipelineOutput):
    """`images`; with `return_levels` also `levels`, all images after every level, coarse to fine.

    With `return_tokens` also `tokens`, int64 (B, L), those of the images.
    """

    images: Images  # type: ignore[assignment]  # diffusers' own pipelines give tensors, too
    levels: list[Images] | None = None
    tokens: Tensor | None = None


class VARPipeline(SavedPipeline):
    """Class-conditional next-scale generation (Tian et al. 2024).

    `class_names` are the names of the classes by label, `()` where they have none.
    """

    model_cpu_offload_seq = "transformer->tokenizer"  # type: ignore[assignment]

    @register_to_config
    def __init__(
        self,
        tokenizer: VQTokenizer,
        transformer: VARTransformer,
        class_names: list[str] | tuple[str, ...] = (),  # diffusers reads the types and knows no Sequence
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
        self.fast_walk: FastWalk | None = None
        # Chooses one of several drawings of an image for folders (`SamplingConfig.draws_per_image`)
        self.classifier: nn.Module | None = None

    def enable_fast_sampling(self) -> None:
        """Draws faster after a slow first time: by a CUDA graph on a GPU, by compiled blocks on a processor.

        On a GPU all levels of a drawing are captured as one graph when a kind of drawing (batch, pyramid,
        guidance, temperature, top-k, top-p, type) is first met. The four kinds used last keep their graphs,
        which claim about the memory of the largest drawing for good (`fast_walk.graphed.capture.bytes_kept`).
        On a processor the block of each level is compiled first, by a C++ compiler; without one, the first
        drawing raises a ValueError that says so.
        Drawings are the same up to rounding. One with `smooth`, given tokens, a callback or the pictures
        after every level is drawn as without this, which a warning says.
        """
        self.fast_walk = FastWalk()

    def disable_fast_sampling(self) -> None:
        """Draws as before `enable_fast_sampling`, and frees the graphs' memory."""
        self.fast_walk = None

    def enable_slicing(self, slice_size: int = 1) -> None:
        """Decodes so many pictures at once, where memory is short (`VQTokenizer.enable_slicing`)."""
        self.tokenizer.enable_slicing(slice_size)

    def disable_slicing(self) -> None:
        """Decodes all pictures of a call at once, on a processor as many as its caches hold."""
        self.tokenizer.disable_slicing()

    def labels(self, class_labels: ClassLabels) -> list[int]:
        """Class labels, by number or by name, as numbers; None is unconditional.

        Raises:
            ValueError: there is no such class.
        """
        if isinstance(class_labels, str | bytes) or not isinstance(class_labels, Iterable):
            return [self._label(class_labels)]
        if getattr(class_labels, "ndim", 1) == 0:  # a 0-d tensor is Iterable in name only
            return [self._label(class_labels)]
        return [self._label(label) for label in class_labels]

    def _label(self, label: object) -> int:
        number = self.transformer.num_classes
        if label is None:
            return number

        if isinstance(label, str):
            if label not in self.class_names:
                raise ValueError(f"class_labels: {no_such_class(label, self.class_names)}")
            return self.class_names.index(label)

        try:
            found = index(cast(SupportsIndex, label))
        except TypeError:  # also from rows of a tensor, which have the method
            raise ValueError(f"class_labels are numbers, names or None, got {label!r}") from None
        if not number:
            raise ValueError(f"the generator has no classes: class_labels must be None, got {label}")
        if not 0 <= found < number:
            raise ValueError(f"class_labels must lie in 0 .. {number - 1} (None: unconditional), got {label}")
        return found

    def pyramid_for(
        self,
        height: int | None = None,
        width: int | None = None,
        pyramid: Pyramid | Sequence[int | Sequence[int]] | None = None,
    ) -> Pyramid:
        """The grids of a picture of `height` x `width` pixels, the trained ones scaled, or the given ones.

        Raises:
            ValueError: a side is not a multiple of the downsampling factor, or the grids end at another size.
        """
        trained, pixels = self.transformer.pyramid, self.tokenizer.downsampling
        size_is_given = height is not None or width is not None
        height = trained.finest[0] * pixels if height is None else height
        width = trained.finest[1] * pixels if width is None else width
        if any(side < 1 or side % pixels for side in (height, width)):
            raise ValueError(
                f"height and width must be multiples of the downsampling factor {pixels}, "
                f"got {height}x{width}"
            )

        grid = height // pixels, width // pixels
        if pyramid is None:
            return trained if grid == trained.finest else trained.for_size(*grid)

        pyramid = Pyramid.of(pyramid)
        if size_is_given and pyramid.finest != grid:
            raise ValueError(
                f"the pyramid {pyramid} ends at {pyramid.finest[0]}x{pyramid.finest[1]}, "
                f"but {height}x{width} pixels are {grid[0]}x{grid[1]} tokens"
            )
        return pyramid

    @torch.no_grad()
    def __call__(
        self,
        class_labels: ClassLabels = None,
        guidance_scale: float = SamplingConfig.guidance_scale,
        guidance_schedule: str | Sequence[float] = SamplingConfig.guidance_schedule,
        temperature: float | Sequence[float] = SamplingConfig.temperature,
        top_k: int = SamplingConfig.top_k,
        top_p: float = SamplingConfig.top_p,
        num_images_per_label: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_level_end: Callback | None = None,
        *,
        height: int | None = None,
        width: int | None = None,
        pyramid: Pyramid | Sequence[int | Sequence[int]] | None = None,
        smooth: bool = False,
        given_tokens: Tensor | None = None,
        keep_best: float | str = 1,
        classifier: Classifier | None = None,
        return_levels: bool = False,
        return_tokens: bool = False,
        scale_guidance: float | Sequence[float] = SamplingConfig.scale_guidance,
        **others: object,
    ) -> VARPipelineOutput | tuple[object, ...]:
        """Images of the given classes, `num_images_per_label` of each in turn.

        `guidance_scale`: 0 is none (see `var_pe.models.choice.guidance_per_level`).
        `temperature`: one, or one for each level.
        `scale_guidance`: how far each level is pushed away from what the one before says of it, 0 is none;
        one, or one for each level (see `var_pe.models.scale_guidance`).
        `generator`: one for each image makes it independent of its batch; a single one seeds them in order.
        `output_type`: pil | np (BHWC) or pt (BCHW) in [0, 1] | latent (B, Z, h, w) | tokens (B, L).
        `callback_on_level_end(pipeline, level, {"latents": ...})` sees the running latent map, of which
        `pipeline.decode` makes pictures; with `keep_best` 1/n it is called in each of the n rounds, one after
        the other, before any image is kept: a new round begins where `level` is 0 again.
        `height`, `width`, `pyramid`: another size or other levels, as `pyramid_for`, where the encoding can
        follow.
        `smooth`: mixed codes in place of drawn ones (VAR's `more_smooth`): prettier, and never to be scored.
        `given_tokens`: int64 (B, L), tokens to keep, -1 where one is to be drawn.
        `keep_best`: 1/n draws every image n times and keeps the one whose class `classifier` (images in
        [-1, 1] to logits) finds likeliest.
        `return_levels`: the output's `levels` are the images after every level, in the same form.
        `return_tokens`: the output's `tokens` (B, L) are those of the images.

        Raises:
            TypeError: there is no such argument; `others` are the names that other pipelines have for ours.
            ValueError: a label, a setting or the number of generators is wrong; the encoding cannot follow.
            FloatingPointError: a weight is NaN or infinite, so there is nothing to draw from.
        """
        refuse_others(others, VARPipeline.__call__)
        check_output_type(output_type, smooth=smooth, return_levels=return_levels)

        # A label and a generator for each image.
        labels_B = self._labels_of_images(class_labels, num_images_per_label)
        generators = one_each(generator, len(labels_B))
        grids = self.pyramid_for(height, width, pyramid)
        given_BL = None if given_tokens is None else given_tokens.to(labels_B.device)

        walk = self._fast_walk_unless(
            {
                "smooth": smooth,
                "given tokens": given_tokens is not None,
                "callback_on_level_end": callback_on_level_end is not None,
                "return_levels": return_levels,
            }
        )

        def draw(generators: Sequence[torch.Generator]) -> Drawn:
            return self.transformer.generate(
                self.tokenizer,
                labels_B,
                grids,
                generators=generators,
                guidance_scale=guidance_scale,
                guidance_schedule=guidance_schedule,
                scale_guidance=scale_guidance,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                smooth=smooth,
                given_BL=given_BL,
                on_level=self._on_level(callback_on_level_end),
                keep_maps=return_levels,
                walk=walk,
            )

        # Drawn once, or several times of which a classifier chooses one for each image.
        judge = self._judge(classifier, labels_B)
        rounds = draws_per_image(keep_best)
        if (rounds > 1) != (judge is not None):
            raise ValueError(f"keep_best and classifier go together, got {keep_best!r} and {classifier}")
        drawn = draw(generators) if judge is None else best_of(rounds, draw, judge, generators)

        # The form that is asked for.
        images = drawn.tokens_BL if output_type == "tokens" else self.decode(drawn.f_hat_BZhw, output_type)
        levels = [self.decode(map_BZhw, output_type) for map_BZhw in drawn.maps] if return_levels else None
        tokens_BL = drawn.tokens_BL if return_tokens else None
        output = VARPipelineOutput(images=images, levels=levels, tokens=tokens_BL)
        self.maybe_free_model_hooks()
        return output if return_dict else output.to_tuple()

    def _fast_walk_unless(self, asked: Mapping[str, bool]) -> Walk | None:
        """The fast walk over the levels; None, with a warning, if an option is not supported by it."""
        if self.fast_walk is None:
            return None
        slow = [name for name, is_asked in asked.items() if is_asked]
        if slow:
            warnings.warn(f"drawn without fast sampling, which cannot do {', '.join(slow)}", stacklevel=3)
            return None
        return partial(self.fast_walk, self.transformer)

    def _labels_of_images(self, class_labels: ClassLabels, number: int) -> Tensor:
        if number < 1:
            raise ValueError(f"num_images_per_label must be at least 1, got {number}")

        labels = [label for label in self.labels(class_labels) for _ in range(number)]
        if not labels:
            raise ValueError("class_labels must hold at least one label (None: unconditional), got none")
        return torch.tensor(labels, device=self._execution_device)

    def _on_level(self, callback: Callback | None) -> Callable[[int, Tensor], None] | None:
        """The transformer's callback after every level, which calls the user's in diffusers' form."""
        if callback is None:
            return None
        return lambda level, f_hat_BZhw: callback(self, level, {"latents": f_hat_BZhw})

    def _judge(self, classifier: Classifier | None, labels_B: Tensor) -> Callable[[Drawn], Tensor] | None:
        """How likely the classifier finds each drawn image's class."""
        if classifier is None:
            return None

        number = self.transformer.num_classes
        if (labels_B == number).any():
            raise ValueError("keep_best needs a class for every image: class_labels must not be None")

        def judge(drawn: Drawn) -> Tensor:
            images_BCHW = cast(Tensor, self.decode(drawn.f_hat_BZhw, "pt"))
            return likelihood_of_labels(classifier, images_BCHW * 2 - 1, labels_B, number)

        return judge

    def decode(self, latents: Tensor, output_type: str = "pil") -> Images:
        """Pictures of latent maps (B, Z, h, w), a callback's running ones for instance."""
        if output_type == "latent":
            return latents

        images_BCHW = self.tokenizer.reconstruct(latents).float()
        if not images_BCHW.isfinite().all():
            raise FloatingPointError(
                "decoded pictures are not finite: a weight of the tokenizer is NaN or infinite"
            )
        return self.image_processor.postprocess(images_BCHW.clamp(-1, 1), output_type=output_type)


def check_output_type(output_type: str, *, smooth: bool, return_levels: bool) -> None:
    """Refuses an output type that does not exist, or that does not go with the other options.

    Raises:
        ValueError: it is refused.
    """
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type is one of {', '.join(OUTPUT_TYPES)}, got {output_type!r}")
    if output_type == "tokens" and (smooth or return_levels):
        raise ValueError(
            "output_type=tokens goes neither with smooth, which mixes codes, nor with return_levels, "
            "which gives pictures"
        )


def one_each(
    generator: torch.Generator | Sequence[torch.Generator] | None, number: int
) -> list[torch.Generator]:
    """A generator for each image: as given, or seeded in order from the one given, else from torch's own.

    Raises:
        ValueError: something else was given, or another number of them.
    """
    if generator is None or isinstance(generator, torch.Generator):
        return children(generator, number)

    given = list(generator) if isinstance(generator, Iterable) else [generator]
    if not all(isinstance(one, torch.Generator) for one in given):
        raise ValueError(
            "generator must be a torch.Generator, such as torch.Generator().manual_seed(0), or a list of "
            f"them, got {generator!r}"
        )
    if len(given) != number:
        raise ValueError(
            f"generator must be a single one or one for each image, got {len(given)} for {number} images"
        )
    return given
