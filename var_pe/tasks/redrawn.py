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


@section
class RedrawnConfig:
    share: Annotated[
        Share,
        Doc(
            "largest share of the tokens that are drawn anew, in every other image and its last one or two "
            "levels, before it is rebuilt; needs tokenizer.quantizer=vq(rate=..., given=coarser); 0: off"
        ),
    ] = 0.0
    start: Annotated[ShareBelowOne, Doc("share of the steps after which tokens are drawn anew")] = 0.5

    def of(self, draw_numbers_B: Tensor, pyramid: Pyramid, *, seed: int, progress: float) -> Redrawn | None:
        """What is drawn anew of the images of these draw numbers at a `progress` in [0, 1]; None: nothing.

        It follows from seed and draw number alone.
        """
        if not self.share or progress < self.start:
            return None
        key_B = random_bits(mix(seed, "redrawn tokens"), draw_numbers_B)
        anew_BL = drawn_anew(draw_numbers_B, self.share, pyramid, seed)
        return Redrawn(anew_BL, uniform_pairs(token_keys(key_B, pyramid)))


def drawn_anew(draw_numbers_B: Tensor, largest: float, pyramid: Pyramid, seed: int) -> Tensor:
    """Which tokens of each image are drawn anew, bool (B, L).

    Of half of the images none, of each other one a share of its own, uniform in [0, largest], and of its last
    level or of its last two, each as often. The first level is left alone: nothing coarser lets one expect
    anything of it.
    """
    image_B2 = uniform_pairs(random_bits(mix(seed, "redrawn share"), draw_numbers_B))
    share_B = 1 - 2 * image_B2[:, 0]  # below 0 in half of the images
    first_B = (pyramid.num_levels - 1 - (image_B2[:, 1] < 0.5).long()).clamp(min=1)
    level_L = pyramid.positions(draw_numbers_B.device).level_L

    key_B = random_bits(mix(seed, "redrawn places"), draw_numbers_B)
    chosen_BL = uniform(token_keys(key_B, pyramid)) < (largest * share_B)[:, None]
    return chosen_BL & (level_L >= first_B[:, None])
