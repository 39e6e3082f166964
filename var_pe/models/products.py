"""Attention as products and a softmax, in the type of its numbers.

On processors torch's own attention makes poor use of bf16: where it is not fused it converts all to float32,
and where it is, its backward pass takes long (docs/speed.md). Letters: `N` heads of all images, `Q` queries,
`K` keys, `D` the width of a head.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Scores that are worked on at a time, of as many heads as fit: few stay in a processor's cache, and several
# heads keep its cores busy.
AT_A_TIME = 1 << 21


def by_products(
    q_BHQD: Tensor, k_BHKD: Tensor, v_BHKD: Tensor, mask: Tensor | None, scale: float, dropout: float = 0.0
) -> tuple[Tensor, Tensor]:
    """`softmax(scale q k^T + mask) v`, (B, H, Q, D), and the softmax, (B, H, Q, K), which autograd keeps.

    `mask` is as SDPA takes it: True where a query may look, or what is added to scores, with any gradient.
    """
    batch, heads = q_BHQD.shape[:2]
    q_NQD, k_NKD, v_NKD = (x_BHLD.flatten(0, 1) for x_BHLD in (q_BHQD, k_BHKD, v_BHKD))
    if mask is not None and mask.dtype == torch.bool:
        mask = as_scores(mask, q_BHQD.dtype)

    if mask is None or mask.dim() == 2:
        scores_NQK = scores(q_NQD, k_NKD, mask, scale)
    else:
        scores_NQK = (scores(q_NQD, k_NKD, None, scale).unflatten(0, (batch, heads)) + mask).flatten(0, 1)
    weights_NQK = scores_NQK.softmax(-1)
    if dropout:
        weights_NQK = F.dropout(weights_NQK, dropout)
    y_NQD = weights_NQK @ v_NKD
    return y_NQD.unflatten(0, (batch, heads)), weights_NQK.unflatten(0, (batch, heads))


def by_products_anew(
    q_BHQD: Tensor, k_BHKD: Tensor, v_BHKD: Tensor, mask: Tensor | None, scale: float
) -> Tensor:
    """The same by torch's fused kernel; but its backward pass is by products, of a few heads at a time.

    They compute the softmax anew, so what is kept grows with Q + K. `mask` as above, but the same for all
    images: (Q, K), (1, Q, K) or (H, Q, K).
    """
    if mask is not None and mask.dtype == torch.bool:
        mask = as_scores(mask, q_BHQD.dtype)
    if mask is not None and mask.dim() == 2:
        mask = mask[None]
    y_NQD: Tensor = _anew(q_BHQD.flatten(0, 1), k_BHKD.flatten(0, 1), v_BHKD.flatten(0, 1), mask, scale)
    return y_NQD.unflatten(0, q_BHQD.shape[:2])


def as_scores(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """The mask as numbers that are added to scores, so that a query looks only where it may.

    The least number, not minus infinity: with that, a query that may look nowhere would become NaN.
    """
    return torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)


def scores(q_NQD: Tensor, k_NKD: Tensor, added_QK: Tensor | None, scale: float) -> Tensor:
    """`scale q k^T`, and what is added to it, rounded once."""
    if added_QK is None:
        return torch.baddbmm(q_NQD.new_zeros(()), q_NQD, k_NKD.mT, beta=0, alpha=scale)
    return torch.baddbmm(added_QK, q_NQD, k_NKD.mT, alpha=scale)


# Operations of their own, which torch.compile leaves as they are: a graph would unroll the loop over heads,
# or give up that scores stay in a cache. `G`: the heads of an image, or 1, if all share what is added.
@torch.library.custom_op("var_pe::products_anew", mutates_args=())
def _anew(q_NQD: Tensor, k_NKD: Tensor, v_NKD: Tensor, added_GQK: Tensor | None, scale: float) -> Tensor:
    if added_GQK is None:
        y_1NQD = F.scaled_dot_product_attention(q_NQD[None], k_NKD[None], v_NKD[None], scale=scale)
        return y_1NQD[0].contiguous()

    # The fused kernel takes several times as long where something is added.
    y_NQD = q_NQD.new_empty(*q_NQD.shape[:2], v_NKD.shape[2])
    scratch = scratch_for(q_NQD, k_NKD, added_GQK, 2)
    for heads, added_gQK in few_heads(q_NQD, scratch, added_GQK):
        scores_nQK, weights_nQK = scratch[:, : heads.stop - heads.start]
        product(q_NQD[heads], k_NKD[heads].mT, scores_nQK, scale, added_gQK)
        torch.ops.aten._softmax.out(scores_nQK, -1, False, out=weights_nQK)
        product(weights_nQK, v_NKD[heads], y_NQD[heads])
    return y_NQD


@torch.library.custom_op("var_pe::products_anew_backward", mutates_args=())
def _anew_backward(
    grad_NQD: Tensor,
    q_NQD: Tensor,
    k_NKD: Tensor,
    v_NKD: Tensor,
    added_GQK: Tensor | None,
    scale: float,
    learns_added: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of queries, keys, values and, if it learns, of what is added; else that one is empty."""
    of_q_NQD, of_k_NKD, of_v_NKD = (
        torch.empty_like(x_NLD, memory_format=torch.contiguous_format) for x_NLD in (q_NQD, k_NKD, v_NKD)
    )
    of_added_GQK = q_NQD.new_empty(0)
    if learns_added and added_GQK is not None:
        exact = torch.float32 if added_GQK.dtype.itemsize == 2 else added_GQK.dtype
        of_added_GQK = added_GQK.new_zeros(added_GQK.shape, dtype=exact)

    scratch = scratch_for(q_NQD, k_NKD, added_GQK, 3)
    for heads, added_gQK in few_heads(q_NQD, scratch, added_GQK):
        q_nQD, k_nKD, v_nKD, grad_nQD = q_NQD[heads], k_NKD[heads], v_NKD[heads], grad_NQD[heads]
        first_nQK, weights_nQK, of_scores_nQK = scratch[:, : len(q_nQD)]
        product(q_nQD, k_nKD.mT, first_nQK, scale, added_gQK)
        torch.ops.aten._softmax.out(first_nQK, -1, False, out=weights_nQK)
        product(weights_nQK.mT, grad_nQD, of_v_NKD[heads])

        product(grad_nQD, v_nKD.mT, first_nQK)
        torch.ops.aten._softmax_backward_data.out(
            first_nQK, weights_nQK, -1, weights_nQK.dtype, grad_input=of_scores_nQK
        )
        product(of_scores_nQK, k_nKD, of_q_NQD[heads], scale)
        product(of_scores_nQK.mT, q_nQD, of_k_NKD[heads], scale)
        if len(of_added_GQK) == 1:
            of_added_GQK += of_scores_nQK.sum(0, dtype=of_added_GQK.dtype)
        elif len(of_added_GQK):
            of_image = heads.start % len(of_added_GQK)
            of_added_GQK[of_image : of_image + len(q_nQD)] += of_scores_nQK
    return of_q_NQD, of_k_NKD, of_v_NKD, of_added_GQK.to(q_NQD.dtype)


@_anew.register_fake
def _(q_NQD: Tensor, k_NKD: Tensor, v_NKD: Tensor, added_GQK: Tensor | None, scale: float) -> Tensor:
    return q_NQD.new_empty(*q_NQD.shape[:2], v_NKD.shape[2])


@_anew_backward.register_fake
def _(
    grad_NQD: Tensor,
    q_NQD: Tensor,
    k_NKD: Tensor,
    v_NKD: Tensor,
    added_GQK: Tensor | None,
    scale: float,
    learns_added: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    # In one piece, whatever the inputs are slices of
    given = (q_NQD, k_NKD, v_NKD)
    of_added = q_NQD.new_empty(added_GQK.shape if learns_added and added_GQK is not None else 0)
    of_q_NQD, of_k_NKD, of_v_NKD = (x_NLD.new_empty(x_NLD.shape) for x_NLD in given)
    return of_q_NQD, of_k_NKD, of_v_NKD, of_added


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Tensor | None, float], output: Tensor) -> None:
    *kept, ctx.scale = inputs
    ctx.save_for_backward(*kept)


def _gradients(ctx: Any, grad_NQD: Tensor) -> tuple[Tensor | None, ...]:
    learns_added = ctx.needs_input_grad[3]
    *found, of_added = _anew_backward(grad_NQD, *ctx.saved_tensors, ctx.scale, learns_added)
    return *found, of_added if learns_added else None, None


_anew.register_autograd(_gradients, setup_context=_keep)


def heads_of_image(q_NQD: Tensor, added_GQK: Tensor | None) -> int:
    """The heads that may be computed together: of all images, or of one where each has its own added."""
    return len(q_NQD) if added_GQK is None or len(added_GQK) == 1 else len(added_GQK)


def scratch_for(q_NQD: Tensor, k_NKD: Tensor, added_GQK: Tensor | None, pieces: int) -> Tensor:
    """Memory for all groups of heads: fresh one for each would cost as much time as the products."""
    queries, keys = q_NQD.shape[1], k_NKD.shape[1]
    together = min(max(1, AT_A_TIME // (queries * keys)), heads_of_image(q_NQD, added_GQK))
    return q_NQD.new_empty(pieces, together, queries, keys)


def few_heads(
    q_NQD: Tensor, scratch: Tensor, added_GQK: Tensor | None
) -> Iterator[tuple[slice, Tensor | None]]:
    """The groups of heads that are computed together, and what is added to their scores."""
    of_image = heads_of_image(q_NQD, added_GQK)
    by_head = added_GQK is not None and len(added_GQK) > 1
    for image in range(0, len(q_NQD), of_image):
        for first in range(0, of_image, scratch.shape[1]):
            stop = min(first + scratch.shape[1], of_image)
            added = added_GQK[first:stop] if added_GQK is not None and by_head else added_GQK
            yield slice(image + first, image + stop), added


def product(x: Tensor, y: Tensor, out: Tensor, factor: float = 1.0, added: Tensor | None = None) -> None:
    """`factor x y`, and what is added to it. Not a plain product, which copies what is to be turned."""
    if added is None:
        torch.baddbmm(x.new_zeros(()), x, y, beta=0, alpha=factor, out=out)
    else:
        torch.baddbmm(added, x, y, alpha=factor, out=out)
