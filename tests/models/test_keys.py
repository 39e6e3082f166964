"""Fewer keys for a level: what is chosen, that it is drawn as it is trained, and that less is computed."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.models.test_generator import asked, check_cache
from var_pe.models.generator import GeneratorConfig
from var_pe.models.kernels import served_by
from var_pe.models.keys import SampledKeys, ScoredKeys, sample_on

LADDER = (1, 2, 3, 4)
BOTH = ["score", "sample"]


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
@pytest.mark.parametrize("by", BOTH)
@pytest.mark.parametrize("line", ["learned", "rope + peg", "pope"])
def test_levels_drawn_alone_see_the_same_keys(by, line, make_generator, make_loud):
    check_cache(make_loud(make_generator(line, LADDER, most_keys=5, keys_by=by)))
    check_cache(make_loud(make_generator(line, LADDER, most_keys=5, keys_by=by, levels_before=1)))


@torch.no_grad()
def test_a_sample_of_all_is_all(make_generator, make_loud):
    all_of_them = make_loud(make_generator("rope", LADDER, most_keys=30, keys_by="sample"))
    plain = make_loud(make_generator("rope", LADDER))
    given = asked(plain)
    assert torch.allclose(all_of_them(*given), plain(*given), atol=1e-5)

    fewer = make_loud(make_generator("rope", LADDER, most_keys=5, keys_by="sample"))(*given)
    other = make_loud(make_generator("rope", LADDER, most_keys=5, keys_by="sample", seed=1))
    other.load_state_dict(plain.state_dict())
    other = other(*given)
    first_two = slice(0, 5)
    assert torch.allclose(fewer[:, first_two], plain(*given)[:, first_two], atol=1e-5)
    assert not torch.allclose(fewer, plain(*given), atol=1e-3)
    assert not torch.allclose(fewer, other, atol=1e-3)


def test_a_sample_is_drawn_once_from_its_seed():
    chosen = sample_on(30, 5, 0, torch.device("cpu"))
    assert len(set(chosen.tolist()) & set(range(30))) == 5
    k_BHKD = random(2, 2, 30, 4)
    few_k, few_v = SampledKeys(5, seed=0)(k_BHKD, 2 * k_BHKD)
    assert torch.equal(few_k, k_BHKD[:, :, chosen])
    assert torch.equal(few_v, 2 * few_k)


def test_each_head_keeps_its_best_keys():
    """By hand: the highest products with the head's vector; values weighed by twice a sigmoid of them."""
    choose = ScoredKeys(3, num_heads=2, width=4)
    choose.score_HD.data = random(2, 4)
    k_BHKD, v_BHKD = random(2, 1, 2, 9, 4)
    few_k, few_v = choose(k_BHKD, v_BHKD)
    for head in (0, 1):
        score_K = k_BHKD[0, head] @ choose.score_HD[head]
        best = score_K.argsort(descending=True)[:3]
        weighed = v_BHKD[0, head, best] * 2 * score_K[best].sigmoid()[:, None]
        order, expected = few_k[0, head].sum(1).argsort(), k_BHKD[0, head, best].sum(1).argsort()
        assert torch.allclose(few_k[0, head][order], k_BHKD[0, head, best][expected])
        assert torch.allclose(few_v[0, head][order], weighed[expected])


def test_scores_are_trained_and_agree_with_finite_differences():
    choose = ScoredKeys(3, num_heads=2, width=4).double()
    choose.score_HD.data = random(2, 4).double()
    k_BHKD, v_BHKD = random(1, 2, 9, 4).double(), random(1, 2, 9, 4).double()

    def weighed(score_HD: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(choose, {"score_HD": score_HD}, (k_BHKD, v_BHKD))[1]

    # sigmoids are float32 inside
    assert torch.autograd.gradcheck(
        weighed, choose.score_HD.detach().requires_grad_(), eps=1e-2, atol=1e-2, rtol=1e-2
    )


@torch.no_grad()
@pytest.mark.parametrize("by", BOTH)
def test_less_is_computed(by, make_generator):
    """Scores fall to those of the chosen keys: nothing is computed and hidden."""
    counted = {}
    for keys in (None, 8):
        model = make_generator("none", (1, 4, 16), most_keys=keys, keys_by=by)
        with served_by("plain"), FlopCounterMode(display=False) as flops:
            model(torch.tensor([0]), random(1, 272, 4))
        counts = flops.get_flop_counts()["Global"]
        counted[keys] = counts[torch.ops.aten.bmm]
    assert counted[8] < counted[None] / 10


def test_scores_of_all_keys_are_refused(make_generator):
    with pytest.raises(
        ValueError, match="most_keys=4 selects keys, but the encoding alibi acts on the scores"
    ):
        make_generator("alibi", LADDER, most_keys=4)
    with pytest.raises(ValueError, match="most_keys must be at least 1, got 0"):
        make_generator("rope", LADDER, most_keys=0)
    with pytest.raises(ValueError, match="keys_by=sample chooses among keys: set most_keys"):
        GeneratorConfig(keys_by="sample")
    with pytest.raises(ValueError, match="keys_by"):
        make_generator("rope", LADDER, most_keys=4, keys_by="luck")
