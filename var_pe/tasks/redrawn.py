"""Tokens that are drawn anew before an image is rebuilt: the decoder learns to make whole pictures of them.

A generator draws the tokens of a level without seeing each other, and some do not go together. A decoder that
has only met the tokens of pictures passes such faults on. This one also meets pictures some of whose tokens
were drawn as a generator draws them, and still has to rebuild the picture. Qiu et al. 2025 (arXiv 2509.12474)
replace tokens by codes near them; here it is by what the coarser levels let one expect.
"""

from typing import Annotated

from torch import Tensor

from var_pe.models.numbers import token_keys, uniform, uniform_pairs
from var_pe.models.quantizers.residual import Redrawn
from var_pe.pyramid import Pyramid
from var_pe.seeding import mix, random_bits
from var_pe.settings.fields import Doc, Share, ShareBelowOne, section
from var_pe.training.schedule import first_after


@section
class RedrawnConfig:
    share: Annotated[
        Share,
        Doc(
            "largest share of the tokens of an image's last one or two levels that are drawn anew before it "
            "is rebuilt; needs tokenizer.quantizer=vq(rate=..., given=coarser); 0: off"
        ),
    ] = 0.0
    images: Annotated[Share, Doc("share of the images to which this happens")] = 0.5
    start: Annotated[ShareBelowOne, Doc("share of the steps after which tokens are drawn anew")] = 0.5

    def first_step(self, steps: int) -> int:
        """The first of so many steps in which tokens are drawn anew: at the latest the last one."""
        return first_after(self.start, steps)

    def of(self, draw_numbers_B: Tensor, pyramid: Pyramid, *, seed: int) -> Redrawn | None:
        """What is drawn anew of the images of these draw numbers, which it follows from; None: nothing is."""
        if not self.share:
            return None
        key_B = random_bits(mix(seed, "redrawn tokens"), draw_numbers_B)
        anew_BL = drawn_anew(draw_numbers_B, self, pyramid, seed)
        return Redrawn(anew_BL, uniform_pairs(token_keys(key_B, pyramid)))


def drawn_anew(draw_numbers_B: Tensor, config: RedrawnConfig, pyramid: Pyramid, seed: int) -> Tensor:
    """Which tokens of each image are drawn anew, bool (B, L).

    Of the images that it happens to, a share of its own each, uniform in [0, config.share], and of its last
    level or of its last two, each as often. The first level is left alone: nothing coarser lets one expect
    anything of it.
    """
    chosen_B = uniform(random_bits(mix(seed, "redrawn image"), draw_numbers_B)) < config.images
    share_B, begin_B = uniform_pairs(random_bits(mix(seed, "redrawn share"), draw_numbers_B)).unbind(-1)
    share_B = (config.share * share_B).masked_fill(~chosen_B, 0)
    first_B = (pyramid.num_levels - 1 - (begin_B < 0.5).long()).clamp(min=1)
    level_L = pyramid.positions(draw_numbers_B.device).level_L

    key_B = random_bits(mix(seed, "redrawn places"), draw_numbers_B)
    chosen_BL = uniform(token_keys(key_B, pyramid)) < share_B[:, None]
    return chosen_BL & (level_L >= first_B[:, None])
