"""Cross-entropy of the true tokens of a generator. Letters: `N` tokens of all images, `n` some of these."""

from typing import Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from var_pe.pyramid import Pyramid

# Logits that are worked on at a time: few stay in the cache of a processor's core, a GPU is to be kept busy.
AT_A_TIME = {"cpu": 1 << 18}
ELSEWHERE = 1 << 24


def token_losses(logits_BLV: Tensor, tokens_BL: Tensor) -> Tensor:
    """Cross-entropy of every token in nats, (B, L).

    Its backward pass writes the gradient over the logits, which are the largest tensor of a step: torch's own
    makes three more of their size. So nobody may look at them after it; autograd itself refuses to.
    """
    losses_N: Tensor = _CrossEntropy.apply(logits_BLV.flatten(0, 1), tokens_BL.flatten())
    return losses_N.view_as(tokens_BL)


class Kept(Protocol):
    """What autograd hands from a forward to its backward pass."""

    @property
    def saved_tensors(self) -> tuple[Tensor, Tensor, Tensor]: ...

    def save_for_backward(self, *tensors: Tensor) -> None: ...


class _CrossEntropy(torch.autograd.Function):
    """`logsumexp(logits) - logits[token]`, whose gradient is `softmax(logits) - one_hot(token)`.

    Computed in float32 of a few tokens at a time: logits in 16 bits never lie there as a whole in 32.
    """

    @staticmethod
    def forward(ctx: Kept, logits_NV: Tensor, tokens_N: Tensor) -> Tensor:
        some = logits_NV.split(tokens_at_a_time(logits_NV))
        log_sum_N = torch.cat([exact(logits_nV).logsumexp(1) for logits_nV in some])
        ctx.save_for_backward(logits_NV, tokens_N, log_sum_N)
        return log_sum_N - exact(logits_NV.gather(1, tokens_N[:, None])[:, 0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Kept, grad_N: Tensor) -> tuple[Tensor, None]:
        logits_NV, tokens_N, log_sum_N = ctx.saved_tensors
        number = tokens_at_a_time(logits_NV)
        columns = (tensor[:, None].split(number) for tensor in (tokens_N, log_sum_N, grad_N))
        for logits_nV, tokens_n1, log_sum_n1, grad_n1 in zip(logits_NV.split(number), *columns, strict=True):
            of_logits_nV = exact(logits_nV).sub_(log_sum_n1).exp_().mul_(grad_n1)
            of_logits_nV.scatter_add_(1, tokens_n1, -grad_n1)
            if of_logits_nV.dtype != logits_nV.dtype:
                logits_nV.copy_(of_logits_nV)
        return logits_NV, None


def exact(values: Tensor) -> Tensor:
    """The values in float32, if they have 16 bits; else themselves, not a copy."""
    return values.float() if values.dtype.itemsize == 2 else values


def tokens_at_a_time(logits_NV: Tensor) -> int:
    """How many tokens are worked on together."""
    return max(1, AT_A_TIME.get(logits_NV.device.type, ELSEWHERE) // logits_NV.shape[1])


def per_level(values_BL: Tensor, pyramid: Pyramid, name: str) -> dict[str, Tensor]:
    """The mean of `values_BL` over images and tokens, level by level: `name/level_0`, ...

    The values may be those of the coarsest levels alone.
    """
    means = {}
    for k, span in enumerate(pyramid.spans):
        if span.stop <= values_BL.shape[1]:
            means[f"{name}/level_{k}"] = values_BL[:, span].mean()
    return means
