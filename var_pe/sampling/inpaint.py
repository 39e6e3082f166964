"""In-painting, out-painting, class editing: tokens outside a mask stay, the others are drawn around them."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from var_pe.pyramid import Pyramid
from var_pe.sampling.masks import Pictures, pictures, repainted
from var_pe.sampling.names import refuse_others
from var_pe.sampling.pipeline import ClassLabels, Images, VARPipeline, VARPipelineOutput


class VARInpaintPipeline(VARPipeline):
    """Repaints what a mask shows (Tian et al. 2024, section 4.5), as one class or unconditionally.

    The picture's own tokens outside the mask are given at every level, so that all that is drawn follows
    them. They come from the whole picture: a token beside the mask has seen a little of what lies under it.
    `VARInpaintPipeline.from_pipe(pipeline)` shares the models of an existing pipeline.
    """

    @torch.no_grad()
    def __call__(  # type: ignore[override]
        self,
        image: Pictures,
        mask_image: Pictures,
        class_labels: ClassLabels = None,
        *,
        mask_rule: str = "half",
        strength: float = 1.0,
        keep_unmasked: bool = False,
        pyramid: Pyramid | Sequence[int | Sequence[int]] | None = None,
        num_images_per_label: int = 1,
        output_type: str = "pil",
        return_dict: bool = True,
        **options: Any,
    ) -> VARPipelineOutput | tuple[object, ...]:
        """Pictures like `image` outside `mask_image` (white: repaint), and of the class inside.

        Pictures, masks and labels: one for all, or one each; forms as in `masks.pictures`, sizes alike.
        `mask_rule`: how much of a cell must be masked to be drawn anew: any | half | all | var.
        `strength`: share of the levels, the finest first, in which tokens may change (`masks.repainted`).
        `keep_unmasked`: the pixels outside the mask are the original's, not its reconstruction's.
        The rest, `options` among it, is as in `VARPipeline`.

        Raises:
            ValueError: an input or a setting is wrong, or the numbers of pictures, masks and labels differ.
        """
        refuse_others(options, VARPipeline.__call__)
        if keep_unmasked and output_type not in ("pil", "np", "pt"):
            raise ValueError(f"keep_unmasked needs pictures, output_type pil, np or pt, got {output_type!r}")

        image_BCHW, mask_B1HW, labels = self._inputs(image, mask_image, class_labels, num_images_per_label)
        grids = self.pyramid_for(image_BCHW.shape[2], image_BCHW.shape[3], pyramid)
        drawn_BL = repainted(mask_B1HW, grids, rule=mask_rule, strength=strength)
        tokens_BL = self.tokenizer.encode(image_BCHW.to(self.tokenizer.dtype) * 2 - 1, grids)

        drawn = super().__call__(
            labels,
            pyramid=grids,
            given_tokens=tokens_BL.masked_fill(drawn_BL, -1),
            output_type="pt" if keep_unmasked else output_type,
            **options,
        )
        output = cast(VARPipelineOutput, drawn)
        if keep_unmasked:
            output = self._pasted(output, image_BCHW, mask_B1HW, output_type)
        return output if return_dict else output.to_tuple()

    def _inputs(
        self, image: Pictures, mask_image: Pictures, class_labels: ClassLabels, repeat: int
    ) -> tuple[Tensor, Tensor, list[int | None]]:
        """Pictures, masks of zeros and ones, and labels, one of each for every image of the output."""
        image_BCHW = pictures(image, self.tokenizer.config["image_channels"])
        mask_B1HW = pictures(mask_image, 1, "mask_image")
        if mask_B1HW.shape[-2:] != image_BCHW.shape[-2:]:
            raise ValueError(
                f"mask_image must have the image's size {tuple(image_BCHW.shape[-2:])}, "
                f"got {tuple(mask_B1HW.shape[-2:])}"
            )

        unconditional = self.transformer.num_classes
        labels = [None if label == unconditional else label for label in self.labels(class_labels)]

        # One of each serves all, else there are as many of each.
        counts = {"image": len(image_BCHW), "mask_image": len(mask_B1HW), "class_labels": len(labels)}
        number = max(counts.values())
        if any(count not in (1, number) for count in counts.values()):
            raise ValueError(f"image, mask_image and class_labels: one or {number} of each, got {counts}")
        if repeat < 1:
            raise ValueError(f"num_images_per_label must be at least 1, got {repeat}")

        def for_every_image(x_BCHW: Tensor) -> Tensor:
            x_BCHW = x_BCHW.expand(number, -1, -1, -1).repeat_interleave(repeat, 0)
            return x_BCHW.to(self._execution_device)

        if len(labels) == 1:
            labels = labels * number
        labels = [label for label in labels for _ in range(repeat)]
        return for_every_image(image_BCHW), for_every_image((mask_B1HW > 0.5).float()), labels

    def _pasted(
        self, output: VARPipelineOutput, image_BCHW: Tensor, mask_B1HW: Tensor, output_type: str
    ) -> VARPipelineOutput:
        """The drawn pictures, which are "pt", with the original's pixels outside the mask."""

        def paste(drawn: Images) -> Images:
            merged_BCHW = torch.where(mask_B1HW > 0, cast(Tensor, drawn), image_BCHW)
            in_0_1 = [False] * len(merged_BCHW)  # already: nothing to denormalise
            return self.image_processor.postprocess(merged_BCHW, output_type, do_denormalize=in_0_1)

        levels = None if output.levels is None else [paste(drawn) for drawn in output.levels]
        return VARPipelineOutput(images=paste(output.images), levels=levels)
