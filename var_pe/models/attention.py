"""Attention of one pass: who sees whom, and the calls that follow.

A level sees itself and all coarser ones, which come first in the row of tokens. So its keys are the first so
many, no L x L mask need exist, and a fine level is a call without any mask, as in drawing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Generic

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from var_pe.encodings import PositionEncoding
from var_pe.encodings.base import Context
from var_pe.models.kernels import BY_PARTS, Kernel, kernel_for
from var_pe.models.keys import KeyChoice
from var_pe.models.products import by_products, by_products_anew
from var_pe.pyramid import Grid, Positions, positions_on

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask


def coarse_levels(tokens_K: Sequence[int]) -> int:
    """How many levels, of so many tokens each, share the call with a mask: at most a quarter of all tokens.

    What that call computes in vain is then at most a 32nd part of L x L scores; of VAR's levels the last
    three are left, with a call each.
    """
    stops = list(accumulate(tokens_K))
    return sum(stop <= stops[-1] / 4 for stop in stops)


def levels_of_parts(tokens_K: Sequence[int], coarse: int | None = None) -> list[tuple[int, int]]:
    """The calls that levels are cut into, given their tokens: each one's first level and the next one's.

    `coarse` levels share the first call; None: as many as `coarse_levels` says.
    """
    coarse = coarse_levels(tokens_K) if coarse is None else coarse
    together = [(0, coarse)] if coarse else []
    return together + [(level, level + 1) for level in range(coarse, len(tokens_K))]


@dataclass(frozen=True)
class Part(Generic[Context]):
    """Some consecutive queries, and the keys that they see, consecutive, too: one call of attention."""

    queries: int
    # the keys up to this one, which are the first so many unless `keys_from` says where they begin
    keys: int
    # what the encoding's `prepare` made of their positions
    query: Context
    key: Context
    # True where a query may look, (Q, K) or (B or 1, 1, Q or 1, K); None: all of these keys
    visible_QK: Tensor | None = None
    keys_from: int = 0


@dataclass(frozen=True)
class PositionContext(Generic[Context]):
    """What attention is given in one forward pass: the encoding, its contexts, and who sees whom."""

    encoding: PositionEncoding[Context]
    # what the encoding's `prepare` made of the positions of queries and of keys
    query: Context
    key: Context
    # True where a query may look, (Q, K) or (B or 1, 1, Q or 1, K); None: all queries see all keys
    visible_QK: Tensor | None = None
    # class token and registers, first among queries and keys; they are neither turned nor biased
    prefix: int = 0
    # whether keys come as they are, and each call turns those that its queries meet, by its own `key`
    turns_keys: bool = False
    # the calls that a pass over several levels is cut into; empty: it is one call
    parts: tuple[Part[Context], ...] = ()
    # FlexAttention's mask, which replaces the parts where there is neither a bias nor dropout
    blocks: "BlockMask | None" = None

    def __post_init__(self) -> None:
        # What scores need in every layer is worked out once, before the first.
        for part in self.parts or (self,):
            self.encoding.relate(part.query, part.key)

    def at(self, layer: int) -> "PositionContext[Context]":
        """What block `layer` is given: of what differs from layer to layer, its own alone.

        A compiled block that picked it out by number would be compiled anew for every layer.
        """
        if not self.encoding.uses("at_layer"):
            return self

        of_layer = self.encoding.at_layer
        parts = []
        for part in self.parts:
            parts.append(replace(part, query=of_layer(part.query, layer), key=of_layer(part.key, layer)))
        return replace(
            self, query=of_layer(self.query, layer), key=of_layer(self.key, layer), parts=tuple(parts)
        )

    def remap(self, q_BHLD: Tensor, k_BHLD: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        if not self.encoding.uses("remap"):
            return q_BHLD, k_BHLD

        # Prefix tokens stay as they are; where the others become wider, zeros make up for it.
        after_q = q_BHLD[:, :, self.prefix :]
        after_k = k_BHLD[:, :, self.prefix :]
        after_q, after_k = self.encoding.remap(after_q, after_k, self.query, layer)
        if not self.prefix:
            return after_q, after_k

        wider = (0, after_k.shape[-1] - k_BHLD.shape[-1])
        before_q = F.pad(q_BHLD[:, :, : self.prefix], wider)
        before_k = F.pad(k_BHLD[:, :, : self.prefix], wider)
        return torch.cat([before_q, after_q], dim=2), torch.cat([before_k, after_k], dim=2)

    def rotate(self, x_BHLD: Tensor, layer: int) -> Tensor:
        """Queries or keys of the same tokens, turned."""
        if not self.encoding.uses("rotate"):
            return x_BHLD
        if not self.prefix:
            return self.encoding.rotate(x_BHLD, self.query, layer)

        before = x_BHLD[:, :, : self.prefix]
        after = x_BHLD[:, :, self.prefix :]
        return torch.cat([before, self.encoding.rotate(after, self.query, layer)], dim=2)

    def refine(self, x_BLC: Tensor, layer: int) -> Tensor:
        if not self.encoding.uses("refine"):
            return x_BLC

        before = x_BLC[:, : self.prefix]
        after = x_BLC[:, self.prefix :]
        return torch.cat([before, self.encoding.refine(after, self.query, layer)], dim=1)

    def mask(
        self,
        layer: int,
        dtype: torch.dtype,
        part: Part[Context] | None = None,
        compared: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor | None:
        """What SDPA takes, of all queries or of a part: booleans, or scores to add where there are any.

        `compared` are scaled queries and keys, which an encoding with `products` asks for.
        """
        there = part or self
        if not self.encoding.adds_to_scores:
            return there.visible_QK

        added = self.encoding.bias(there.query, there.key, layer)
        if compared is not None and self.encoding.uses("products"):
            q_BHQD, k_BHKD = (x_BHLD[:, :, self.prefix :] for x_BHLD in compared)
            products_BHQK = self.encoding.products(q_BHQD, k_BHKD, there.query, there.key, layer)
            if products_BHQK is not None:
                added = products_BHQK if added is None else products_BHQK + added
        if added is None:
            return there.visible_QK

        added = F.pad(added, (self.prefix, 0, self.prefix, 0)).to(dtype)
        if there.visible_QK is None:
            return added
        # The least number: minus infinity in all of a row would have no softmax.
        return added.masked_fill(~there.visible_QK, torch.finfo(dtype).min)

    def with_values(self, y_BHQD: Tensor, weights_BHQK: Tensor, layer: int, part: Part[Context]) -> Tensor:
        """What a part gathers, and what the encoding adds to it; prefix tokens neither get nor give it."""
        if not self.encoding.uses("values"):
            return y_BHQD

        between_BHQK = weights_BHQK[:, :, self.prefix :, self.prefix :]
        added_BHQD = self.encoding.values(between_BHQK, part.query, part.key, layer)
        if added_BHQD is None:
            return y_BHQD
        return y_BHQD + F.pad(added_BHQD, (0, 0, self.prefix, 0)).type_as(y_BHQD)

    def calls(self, queries: int, keys: int) -> tuple[Part[Context], ...]:
        """The parts that a pass of so many queries and keys is cut into; all of it, if it is not."""
        return self.parts or (Part(queries, keys, self.query, self.key, self.visible_QK),)


def all_levels(
    encoding: PositionEncoding[Context],
    positions: Positions,
    kernel: Kernel,
    coarse: int | None = None,
    before: int | None = None,
    few_keys: bool = False,
) -> PositionContext[Context]:
    """A pass over all levels at once, where a token sees its own level and the coarser ones.

    `coarse` levels share the slices' call with a mask; None: as `coarse_levels` says. `before` is how many
    coarser levels are seen, the nearest ones; None: all. With `few_keys` each level has its own choice of
    keys, and so a call of its own.
    """
    context = encoding.prepare(positions)
    kernel, coarse = cut_for(encoding, positions.grids_here, kernel, coarse, few_keys)
    if kernel not in BY_PARTS:
        return PositionContext(encoding, context, context, visible(positions, before))

    parts = parts_of(encoding, context, positions, coarse, before)
    blocks = None
    if kernel == "flex" and not encoding.adds_to_scores:
        blocks = level_blocks(positions.grids_here, positions.level_L.device, before)
    turns_keys = encoding.turns_keys_by_query
    return PositionContext(encoding, context, context, parts=parts, blocks=blocks, turns_keys=turns_keys)


def cut_for(
    encoding: PositionEncoding,
    grids: Sequence[Grid],
    kernel: Kernel,
    coarse: int | None = None,
    few_keys: bool = False,
) -> tuple[Kernel, int | None]:
    """The kernel and the levels of the first call: a call for each level where each has keys of its own."""
    turns_keys = encoding.turns_keys_by_query and len(grids) > 1
    return ("slices", 0) if few_keys or turns_keys else (kernel, coarse)


def parts_of(
    encoding: PositionEncoding[Context],
    context: Context,
    positions: Positions,
    coarse: int | None = None,
    before: int | None = None,
) -> tuple[Part[Context], ...]:
    """The coarse levels together, under their mask, and then every other level, which needs none."""
    parts = []
    for first, stop in levels_of_parts([h * w for h, w in positions.grids_here], coarse):
        here = positions.only(first, stop)
        seen = positions.only(first_seen(first, before), stop)
        keys = positions.only(0, stop).num_tokens
        query = key = context
        if encoding.asks_of_calls:
            query = encoding.prepare(here)
            if encoding.turns_keys_by_query:  # a call is of one level then
                seen = seen.as_keys_of(first)
            key = encoding.prepare(seen)
        seen_here = visible(here, before)
        parts.append(Part(here.num_tokens, keys, query, key, seen_here, keys - seen.num_tokens))
    return tuple(parts)


def first_seen(level: int, before: int | None) -> int:
    """The coarsest level that a level sees, if it sees `before` coarser ones; None: all."""
    return 0 if before is None else max(0, level - before)


def visible(positions: Positions, before: int | None = None) -> Tensor | None:
    """True (L, L) where a token may look: at its own level and at coarser ones; None for a single level.

    `before` is how many coarser ones; None: all.
    """
    if len(positions.levels) == 1:
        return None
    coarser_LL = positions.level_L[:, None] - positions.level_L
    return coarser_LL >= 0 if before is None else (coarser_LL >= 0) & (coarser_LL <= before)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # kept for later calls, which may train
def level_blocks(grids: tuple[Grid, ...], device: torch.device, before: int | None = None) -> "BlockMask":
    """Which blocks of pairs of tokens FlexAttention computes, passes over, or looks at pair by pair."""
    from torch.nn.attention.flex_attention import create_block_mask  # takes half a second

    level_L = positions_on(grids, device)[1]
    farthest = len(grids) if before is None else before

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        coarser = level_L[query] - level_L[key]
        return (coarser >= 0) & (coarser <= farthest)

    return create_block_mask(sees, None, None, len(level_L), len(level_L), device=str(device))


def flex() -> Callable[..., Tensor]:
    """FlexAttention, which would compute all scores if it were not compiled."""
    from torch.nn.attention.flex_attention import flex_attention

    if torch.compiler.is_compiling():
        return flex_attention
    return compiled_flex()


@lru_cache(maxsize=1)
def compiled_flex() -> Callable[..., Tensor]:
    """It alone, for models that are not compiled."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


def attend(
    q_BHQD: Tensor,
    k_BHKD: Tensor,
    v_BHKD: Tensor,
    position_context: PositionContext,
    layer: int,
    *,
    dropout: float,
    scale: float | None,
    choose: KeyChoice | None = None,
) -> Tensor:
    """Exact attention, (B, Q, H, D), by a call for each part; `scale` is the products', None: 1 / sqrt(D).

    With `choose` it is attention to the keys that are chosen of those that a part sees.
    """
    if position_context.blocks is not None and not dropout:
        y_BHQD = flex()(q_BHQD, k_BHKD, v_BHKD, block_mask=position_context.blocks, scale=scale)
        return y_BHQD.transpose(1, 2)

    parts = position_context.calls(q_BHQD.shape[2], k_BHKD.shape[2])
    stops = [part.keys for part in parts]
    queries = [part.queries for part in parts]
    q_parts = q_BHQD.split(queries, dim=2)
    if position_context.encoding.adds_to_scores or dropout:
        # In compiled blocks torch's partitioner cannot keep a split for calls that are computed anew.
        q_parts = tuple(
            q_BHQD.narrow(2, stop - n, n) for stop, n in zip(accumulate(queries), queries, strict=True)
        )
    starts = [part.keys_from for part in parts]
    k_parts = seen_tokens(k_BHKD, starts, stops)
    v_parts = seen_tokens(v_BHKD, starts, stops)

    y_parts = []
    for q, k, v, part in zip(q_parts, k_parts, v_parts, parts, strict=True):
        if position_context.turns_keys:
            k = position_context.encoding.rotate(k, part.key, layer).type_as(v)
        if choose is not None:
            k, v = choose(k, v)
        y_parts.append(attend_part(q, k, v, position_context, part, layer, dropout, scale).transpose(1, 2))
    return y_parts[0] if len(parts) == 1 else torch.cat(y_parts, dim=1)


def attend_part(
    q_BHQD: Tensor,
    k_BHKD: Tensor,
    v_BHKD: Tensor,
    position_context: PositionContext,
    part: Part,
    layer: int,
    dropout: float,
    scale: float | None,
) -> Tensor:
    """One call, (B, H, Q, D), by the kernel that serves its size."""
    needs_grad = torch.is_grad_enabled()
    has_bias = position_context.encoding.adds_to_scores
    kernel = kernel_for(
        q_BHQD.device.type, q_BHQD.dtype, q_BHQD.shape[2], k_BHKD.shape[2], needs_grad, has_bias
    )

    # A call by parts that would keep scores nevertheless is computed anew as a whole.
    anew = by_parts_with_scores(kernel, position_context, part, dropout)
    if kernel == "products" and differs_by_image(position_context, part, dropout):
        kernel = "plain"
    if position_context.encoding.uses("values"):
        kernel = "plain"

    # Not a closure: a compiled block would be compiled anew for every layer number that one holds.
    given = (q_BHQD, k_BHKD, v_BHKD, position_context, part, layer, kernel, dropout, scale)
    if needs_grad and anew:
        return checkpoint(_call, *given, use_reentrant=False, preserve_rng_state=dropout > 0)
    return _call(*given)


def by_parts_with_scores(kernel: Kernel, context: PositionContext, part: Part, dropout: float) -> bool:
    """Whether a kernel that keeps no scores otherwise would keep them, or what is added to them."""
    if kernel == "products":
        return context.encoding.adds_to_scores or differs_by_image(context, part, dropout)
    return kernel == "slices" and context.encoding.adds_to_scores


def differs_by_image(context: PositionContext, part: Part, dropout: float) -> bool:
    """Whether what is added to scores, what may be seen, or what is dropped is another for each image."""
    seen = part.visible_QK is not None and part.visible_QK.dim() > 2
    return context.encoding.uses("products") or seen or dropout > 0


def _call(
    q_BHQD: Tensor,
    k_BHKD: Tensor,
    v_BHKD: Tensor,
    position_context: PositionContext,
    part: Part,
    layer: int,
    kernel: Kernel,
    dropout: float,
    scale: float | None,
) -> Tensor:
    factor = q_BHQD.shape[-1] ** -0.5 if scale is None else scale
    compared = (q_BHQD * factor, k_BHKD) if position_context.encoding.uses("products") else None
    mask = position_context.mask(layer, q_BHQD.dtype, part, compared)

    if kernel == "plain":
        y_BHQD, weights_BHQK = by_products(q_BHQD, k_BHKD, v_BHKD, mask, factor, dropout)
        return position_context.with_values(y_BHQD, weights_BHQK, layer, part)
    if kernel == "products":
        return by_products_anew(q_BHQD, k_BHKD, v_BHKD, mask, factor)
    return F.scaled_dot_product_attention(
        q_BHQD, k_BHKD, v_BHKD, attn_mask=mask, dropout_p=dropout, scale=scale
    )


def seen_tokens(x_BHLD: Tensor, starts: Sequence[int], stops: Sequence[int]) -> tuple[Tensor, ...]:
    """The tokens from each start to its stop, as views; the stops grow, and the last one is all."""
    if len(stops) == 1:
        return (x_BHLD,)
    views: tuple[Tensor, ...] = _SeenTokens.apply(x_BHLD, *starts, *stops)
    return views


# An operation of its own, which torch.compile leaves as it is: its graph would work out, number by number,
# which gradients reach each token, in one kernel with all that follows, and take twice the time of a block.
@torch.library.custom_op("var_pe::added_up", mutates_args=())
def _added_up(grads: list[Tensor], starts: list[int], length: int) -> Tensor:
    """The sum, (B, H, length, D), of gradients of tokens from each start on; the last one reaches the end."""
    last = grads[-1]
    total_BHLD = last.new_empty(*last.shape[:2], length, last.shape[3])
    total_BHLD[:, :, : starts[-1]] = 0
    total_BHLD[:, :, starts[-1] :] = last
    for start, grad_BHlD in zip(starts, grads[:-1], strict=False):
        total_BHLD[:, :, start : start + grad_BHlD.shape[2]] += grad_BHlD
    return total_BHLD


@_added_up.register_fake
def _(grads: list[Tensor], starts: list[int], length: int) -> Tensor:
    last = grads[-1]
    return last.new_empty(*last.shape[:2], length, last.shape[3])


class _SeenTokens(torch.autograd.Function):
    """Autograd would fill up every gradient with zeros to the whole length before it adds them."""

    @staticmethod
    def forward(ctx: Any, x_BHLD: Tensor, *bounds: int) -> tuple[Tensor, ...]:
        half = len(bounds) // 2
        ctx.starts = bounds[:half]
        ctx.length = x_BHLD.shape[2]
        return tuple(
            x_BHLD[:, :, start:stop] for start, stop in zip(bounds[:half], bounds[half:], strict=True)
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        total_BHLD = _added_up(list(grads), list(ctx.starts), ctx.length)
        return total_BHLD, *(None for _ in 2 * grads)
