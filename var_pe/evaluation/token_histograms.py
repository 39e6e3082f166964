"""How often drawn images use each code, against how often real ones do: a distance without any features."""

from torch import Tensor

from var_pe.pyramid import Pyramid

TOKEN_HISTOGRAM = "token_histogram_distance"


def hellinger(first_V: Tensor, other_V: Tensor) -> float:
    """The Hellinger distance of two histograms, in [0, 1]: sqrt(1 - sum_v sqrt(p_v q_v)).

    Raises:
        ValueError: one of them counts nothing.
    """
    if not (first_V.sum() > 0 and other_V.sum() > 0):
        raise ValueError("a distance of histograms needs at least one count in each")
    p_V, q_V = (counts_V.double() / counts_V.sum() for counts_V in (first_V, other_V))
    return float(((p_V.sqrt() - q_V.sqrt()).square().sum() / 2).sqrt())


def token_histogram_distances(
    drawn_NL: Tensor, real_NL: Tensor, pyramid: Pyramid, num_codes: int
) -> dict[str, float]:
    """Hellinger distances of the codes of two sets of images: of all tokens, and level by level.

    The first is the codebook histogram distance of Jia et al. 2026 (arXiv 2603.08064) with the codes of the
    generator's own tokenizer; the paper counts those of TiTok-L-32, so its numbers cannot be compared. It
    sees which codes occur, and not where. Few images raise it: compare equal counts.
    """

    def counts(tokens: Tensor) -> Tensor:
        return tokens.flatten().bincount(minlength=num_codes)

    found = {TOKEN_HISTOGRAM: hellinger(counts(drawn_NL), counts(real_NL))}
    for level, span in enumerate(pyramid.spans):
        found[f"{TOKEN_HISTOGRAM}/level_{level}"] = hellinger(
            counts(drawn_NL[:, span]), counts(real_NL[:, span])
        )
    return found
