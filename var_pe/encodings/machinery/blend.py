"""Two encodings at once, one fading out and the other in: what a retrofit trains with."""

from collections.abc import Sequence

import torch
from torch import Tensor

from var_pe.encodings.base import REGISTRY, PositionEncoding
from var_pe.encodings.machinery.compose import Composed, move_all
from var_pe.pyramid import Positions, Pyramid
from var_pe.resampling.conventions import Convention

# What each of the two prepared, first the old one's
Both = tuple[object, object]


class Blended(PositionEncoding[Both]):
    """The old encoding by the share 1 - a and the new one by a; a is the buffer `share`, from 0 to 1.

    What a hook adds, to tokens, scores or between blocks, is multiplied by its encoding's share. Rotations
    turn by that share of their angles, the old one's first. At 0 and at 1 the model is that of the old and of
    the new encoding alone.

    Raises:
        ValueError: one of them can only be there or not (`PositionEncoding.blends`).
    """

    share: Tensor

    def __init__(self, old: PositionEncoding[object], new: PositionEncoding[object]) -> None:
        super().__init__()
        for encoding in (old, new):
            for part in parts_of(encoding):
                turns_at_once = part.uses("rotate") and not part.uses("turned_by")
                if not part.blends or turns_at_once:
                    name = next(name for name, member in REGISTRY.items() if member is type(part))
                    raise ValueError(
                        f"{name} cannot be blended with another encoding: an encoding that hides keys, "
                        "widens heads or turns without angles is either there or not"
                    )

        self.old = old
        self.new = new
        self.register_buffer("share", torch.zeros(()))

    def shares(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Those of the old and of the new encoding, in the type of what they multiply."""
        share = self.share.to(like.dtype)
        return 1 - share, share

    def prepare(self, positions: Positions) -> Both:
        of_old, of_new = self.shares(self.share)
        return (
            self.old.turned_by(self.old.prepare(positions), of_old),
            self.new.turned_by(self.new.prepare(positions), of_new),
        )

    def embed(self, x_BLC: Tensor, context: Both) -> Tensor:
        of_old, of_new = self.shares(x_BLC)
        x_BLC = torch.lerp(x_BLC, self.old.embed(x_BLC, context[0]), of_old)
        return torch.lerp(x_BLC, self.new.embed(x_BLC, context[1]), of_new)

    def remap(self, q_BHLD: Tensor, k_BHLD: Tensor, context: Both, layer: int) -> tuple[Tensor, Tensor]:
        of_old, of_new = self.shares(q_BHLD)
        for encoding, own, share in ((self.old, context[0], of_old), (self.new, context[1], of_new)):
            mapped_q, mapped_k = encoding.remap(q_BHLD, k_BHLD, own, layer)
            q_BHLD = torch.lerp(q_BHLD, mapped_q, share)
            k_BHLD = torch.lerp(k_BHLD, mapped_k, share)
        return q_BHLD, k_BHLD

    def rotate(self, x_BHLD: Tensor, context: Both, layer: int) -> Tensor:
        return self.new.rotate(self.old.rotate(x_BHLD, context[0], layer), context[1], layer)

    def relate(self, query: Both, key: Both) -> None:
        self.old.relate(query[0], key[0])
        self.new.relate(query[1], key[1])

    def bias(self, query: Both, key: Both, layer: int) -> Tensor | None:
        return self.weighted(
            self.old.bias(query[0], key[0], layer),
            self.new.bias(query[1], key[1], layer),
        )

    def products(self, q_BHQD: Tensor, k_BHKD: Tensor, query: Both, key: Both, layer: int) -> Tensor | None:
        return self.weighted(
            self.old.products(q_BHQD, k_BHKD, query[0], key[0], layer),
            self.new.products(q_BHQD, k_BHKD, query[1], key[1], layer),
        )

    def values(self, weights_BHQK: Tensor, query: Both, key: Both, layer: int) -> Tensor | None:
        return self.weighted(
            self.old.values(weights_BHQK, query[0], key[0], layer),
            self.new.values(weights_BHQK, query[1], key[1], layer),
        )

    def weighted(self, old: Tensor | None, new: Tensor | None) -> Tensor | None:
        """The sum of what the two add to scores or values, by their shares; None if neither adds anything."""
        of_old, of_new = self.shares(self.share)
        total: Tensor | None = None
        for added, share in ((old, of_old), (new, of_new)):
            if added is not None:
                total = share * added if total is None else total + share * added
        return total

    def at_layer(self, context: Both, layer: int) -> Both:
        return self.old.at_layer(context[0], layer), self.new.at_layer(context[1], layer)

    def refine(self, x_BLC: Tensor, context: Both, layer: int) -> Tensor:
        of_old, of_new = self.shares(x_BLC)
        x_BLC = torch.lerp(x_BLC, self.old.refine(x_BLC, context[0], layer), of_old)
        return torch.lerp(x_BLC, self.new.refine(x_BLC, context[1], layer), of_new)

    def set_pyramid(self, pyramid: Pyramid, convention: str | Convention | None = None) -> None:
        move_all([self.old, self.new], pyramid, convention)

    @property
    def turns_keys_by_query(self) -> bool:
        return self.old.turns_keys_by_query or self.new.turns_keys_by_query

    def uses(self, hook: str) -> bool:
        return self.old.uses(hook) or self.new.uses(hook)


def parts_of(encoding: PositionEncoding) -> Sequence[PositionEncoding[object]]:
    """What `+` joins in an encoding's line; it alone, if nothing is joined."""
    return encoding.each() if isinstance(encoding, Composed) else [encoding]
