"""Contextual relative positions: queries, keys and values have a vector for each displacement."""

from dataclasses import dataclass, replace
from math import log

import torch
from torch import Tensor, nn

from var_pe.encodings.base import ModelShape, own, register
from var_pe.encodings.machinery.scores import ProductEncoding, ScoreQuery, displacement
from var_pe.pyramid import Positions
from var_pe.resampling.precision import full_precision

METHODS = ("product", "cross", "euclidean")
SIDES = ("keys", "queries", "both")


@dataclass(frozen=True)
class Buckets:
    """The buckets that the displacement of each pair lies in, and their vectors in all layers or in one."""

    # one or two buckets for each pair, (Lq, Lk) each
    bucket_QK: tuple[Tensor, ...]
    # vectors of the buckets, (N, H, B, D): for queries to compare with, for keys, and to be gathered
    for_queries: Tensor | None
    for_keys: Tensor | None
    for_values: Tensor | None


@register("irpe")
class IRPE(ProductEncoding[Buckets]):
    """`score += q . r[bucket(d)]` (on keys), `+ k . s[bucket(d)]` (on queries), or both; and on values.

    iRPE in contextual mode (Wu et al. 2021, ICCV; public code), d the query's centre minus the key's in cells
    of the finest level; r and s are vectors per layer, head and bucket, from 0. Buckets are fine near by and
    wide far away: g(t) = round(t) up to alpha, beyond it sign(t) min(beta, round(alpha + log(|t| / alpha) /
    log(gamma / alpha) (beta - alpha))), with alpha, beta, gamma = 1, 2, 8 times `ratio`, beta rounded down.
    `product`: a bucket for every pair (g(dy), g(dx)); `cross`: one of g(dy) and one of g(dx), added;
    `euclidean`: one of g(|d|), which tells no direction. The quantized method is left out. With `values` a
    query also gathers `sum over keys of weight(q, k) t[bucket(d)]`, weights after the softmax, t from 0.

    Queries are scaled as scores are, keys are not; joined with a rotary encoding, both are turned ones.
    Prefix tokens get 0. Of levels it knows nothing but where their tokens are. Follows any pyramid: larger
    displacements fall into the last buckets.

    Cost: loses the flash kernel; a product with all buckets' vectors per query (key), and B H Lq Lk numbers
    picked of it, a layer (`ProductEncoding`). With `values`, the weights of all pairs are added up by bucket,
    too, and no fused kernel serves.

    Args:
        method: `product`, `cross` or `euclidean`.
        on: `keys`, `queries` or `both`.
        ratio: from 0.5 to 64; 1.9 in the paper, which gives 7 x 7 buckets to `product`.
        values: act on values, too.
    Raises:
        ValueError: an option is not known or out of its range.
    """

    def __init__(
        self,
        shape: ModelShape,
        *,
        method: str = "product",
        on: str = "keys",
        ratio: float = 1.9,
        values: bool = False,
    ) -> None:
        super().__init__()
        if method not in METHODS:
            raise ValueError(f"irpe: method is one of {', '.join(METHODS)}, got {method!r}")
        if on not in SIDES:
            raise ValueError(f"irpe: on is one of {', '.join(SIDES)}, got {on!r}")
        if not 0.5 <= ratio <= 64:
            raise ValueError(f"irpe: ratio lies between 0.5 and 64, got {ratio}")

        self.method = method
        self.ratio = float(ratio)
        self.last = int(2 * ratio)
        steps = 2 * self.last + 1
        buckets = {"product": steps**2, "cross": 2 * steps, "euclidean": self.last + 1}[method]
        vectors = (shape.depth, shape.num_heads, buckets, shape.dim // shape.num_heads)
        self.for_queries_NHBD = nn.Parameter(torch.zeros(vectors)) if on != "queries" else None
        self.for_keys_NHBD = nn.Parameter(torch.zeros(vectors)) if on != "keys" else None
        self.for_values_NHBD = nn.Parameter(torch.zeros(vectors)) if values else None

    def uses(self, hook: str) -> bool:
        return super().uses(hook) and (hook != "values" or self.for_values_NHBD is not None)

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        nn.init.zeros_(parameter)

    def geometry(self, query: Positions, key: Positions) -> Buckets:
        delta_QK2 = displacement(query, key)
        if self.method == "euclidean":
            buckets: tuple[Tensor, ...] = (self.step(delta_QK2.norm(dim=-1)),)
        else:
            steps = 2 * self.last + 1
            dy_QK, dx_QK = (self.step(delta_QK2) + self.last).unbind(-1)
            product = self.method == "product"
            buckets = (dy_QK * steps + dx_QK,) if product else (dy_QK, dx_QK + steps)
        return Buckets(buckets, self.for_queries_NHBD, self.for_keys_NHBD, self.for_values_NHBD)

    def step(self, t: Tensor) -> Tensor:
        """g(t), int64, from -last to last."""
        alpha, beta, gamma = self.ratio, 2 * self.ratio, 8 * self.ratio
        far = alpha + (t.abs() / alpha).clamp(min=1).log() / log(gamma / alpha) * (beta - alpha)
        length = torch.where(t.abs() <= alpha, t.abs(), far).round().clamp(max=self.last)
        return (t.sign() * length).long()

    def geometry_at(self, geometry: Buckets, layer: int) -> Buckets:
        here = slice(layer, layer + 1)
        of_q, of_k, of_v = geometry.for_queries, geometry.for_keys, geometry.for_values
        return replace(
            geometry,
            for_queries=None if of_q is None else of_q[here],
            for_keys=None if of_k is None else of_k[here],
            for_values=None if of_v is None else of_v[here],
        )

    def answers(self, q_BHQD: Tensor, k_BHKD: Tensor, geometry: Buckets, layer: int) -> Tensor:
        picked = []
        for bucket_QK in geometry.bucket_QK:
            if geometry.for_queries is not None:
                vectors_HBD = geometry.for_queries[own(layer, len(geometry.for_queries))]
                picked.append(pick(q_BHQD, vectors_HBD, bucket_QK))
            if geometry.for_keys is not None:
                vectors_HBD = geometry.for_keys[own(layer, len(geometry.for_keys))]
                picked.append(pick(k_BHKD, vectors_HBD, bucket_QK.T).mT)

        total = picked[0]
        for more in picked[1:]:
            total = total + more
        return total

    def values(
        self, weights_BHQK: Tensor, query: ScoreQuery[Buckets], key: ScoreQuery[Buckets], layer: int
    ) -> Tensor | None:
        geometry = self.geometry_of(query, key)
        if geometry.for_values is None:
            return None

        with full_precision(weights_BHQK):
            vectors_HBD = geometry.for_values[own(layer, len(geometry.for_values))].float()
            sums_BHQB = weights_BHQK.new_zeros(*weights_BHQK.shape[:3], vectors_HBD.shape[1]).float()
            for bucket_QK in geometry.bucket_QK:
                index_BHQK = bucket_QK.expand_as(weights_BHQK)
                sums_BHQB = sums_BHQB.scatter_add(3, index_BHQK, weights_BHQK.float())
            return sums_BHQB @ vectors_HBD


def pick(x_BHLD: Tensor, vectors_HBD: Tensor, bucket_LM: Tensor) -> Tensor:
    """The product of each token with the vector of each of its buckets, (B, H, L, M)."""
    products_BHLB = x_BHLD @ vectors_HBD.float().mT
    return products_BHLB.gather(3, bucket_LM.expand(*products_BHLB.shape[:2], -1, -1))
