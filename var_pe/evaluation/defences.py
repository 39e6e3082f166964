"""What is done to pictures before they are classified, so that attacks miss: by ART, and a blur."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.random import default_rng
from torch import Tensor, nn

from var_pe.data.corruptions import gaussian_blur
from var_pe.models.classifier import Classifier

Kind = Literal["jpeg", "bits", "median", "gaussian"]

# What may be given, and what each is
RULES = {
    "jpeg": "a whole number from 1 to 95, the quality",
    "bits": "a whole number from 1 to 8, the bits of a value",
    "median": "an odd number of at least 3, the pixels of a window's side",
    "gaussian": "a number above 0, the blur's standard deviation in pixels",
}


@dataclass(frozen=True)
class Defence:
    """A way to change pictures, and how strongly."""

    kind: Kind
    strength: float

    def __post_init__(self) -> None:
        whole, strength = self.strength == int(self.strength), self.strength
        fits = {
            "jpeg": whole and 1 <= strength <= 95,
            "bits": whole and 1 <= strength <= 8,
            "median": whole and strength >= 3 and strength % 2 == 1,
            "gaussian": strength > 0,
        }
        if not fits[self.kind]:
            raise ValueError(f"{self.kind} takes {RULES[self.kind]}, got {strength:g}")

    def __str__(self) -> str:
        return f"{self.kind}={self.strength:g}"


def parse_defence(word: str) -> Defence:
    """`jpeg=50` and the like.

    Raises:
        ValueError: there is no such defence, or its strength is not in its range.
    """
    name, _, number = word.partition("=")
    for kind in get_args(Kind):
        if name == kind:
            try:
                strength = float(number)
            except ValueError:
                raise ValueError(f"{kind} takes {RULES[kind]}, got {number!r}") from None
            if np.isfinite(strength):
                return Defence(kind, strength)
            raise ValueError(f"{kind} takes {RULES[kind]}, got {number!r}")
    raise ValueError(f"a defence is one of {', '.join(RULES)} with its strength, as in jpeg=50, got {word!r}")


def defended(images_BCHW: Tensor, defence: Defence) -> Tensor:
    """The pictures that a classifier sees in place of these, in [-1, 1], on the CPU.

    JPEG is Dziugaite et al. 2016, bit depth and median are the feature squeezing of Xu, Evans & Qi 2018.
    """
    from art.defences.preprocessor import FeatureSqueezing, JpegCompression, SpatialSmoothing

    strength = int(defence.strength)
    picture_BCHW = ((images_BCHW.detach().cpu().float() + 1) / 2).clamp(0, 1).numpy()
    if defence.kind == "jpeg":
        # In whole 255ths, which ART would otherwise round down
        jpeg = JpegCompression(clip_values=(0, 255), quality=strength, channels_first=True)
        picture_BCHW = jpeg(np.rint(255 * picture_BCHW))[0] / 255
    elif defence.kind == "bits":
        picture_BCHW = FeatureSqueezing(clip_values=(0, 1), bit_depth=strength)(picture_BCHW)[0]
    elif defence.kind == "median":
        picture_BCHW = SpatialSmoothing(window_size=strength, channels_first=True)(picture_BCHW)[0]
    else:
        unused = default_rng(0)
        blurred = [
            gaussian_blur(one.transpose(1, 2, 0), defence.strength, unused).transpose(2, 0, 1)
            for one in picture_BCHW
        ]
        picture_BCHW = np.stack(blurred)
    return torch.from_numpy(np.asarray(picture_BCHW, dtype=np.float32)) * 2 - 1


class Defended(nn.Module):
    """A classifier behind a defence, for an attack that knows of it.

    Its gradient is taken at the pictures that the classifier sees and passed on as if the defence had done
    nothing: backward pass differentiable approximation, BPDA (Athalye, Carlini & Wagner 2018, section 4.1).
    """

    def __init__(self, classifier: Classifier, defence: Defence) -> None:
        super().__init__()
        self.classifier = classifier
        self.defence = defence

    def forward(self, images_BCHW: Tensor) -> Tensor:
        change_BCHW = defended(images_BCHW, self.defence).to(images_BCHW.device) - images_BCHW.detach()
        logits_BV: Tensor = self.classifier(images_BCHW + change_BCHW)
        return logits_BV
