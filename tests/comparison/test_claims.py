"""What a study's own numbers say of articles' claims, by the stated rules."""

import pytest

from tests.comparison.made_up import FRECHET, results
from var_pe.comparison.claims import CLAIMS
from var_pe.comparison.guide import advice
from var_pe.comparison.verdicts import primary_column

FIXED = "learned(init=sinusoidal, trainable=False)"
MIXED = "mixed(learned=0.7, sinusoidal=0.3)"
SEEDS = [0.0, 0.03, -0.02, 0.01]


def losses(mean: float, scatter: float = 0.001) -> list[float]:
    """A loss for each of four seeds, with a little beside what they share."""
    return [mean + of_seed + scatter * (place % 2) for place, of_seed in enumerate(SEEDS)]


def verdicts(found):
    looked = {claim.name: claim.look(found) for claim in CLAIMS}
    return {name: finding.verdict for name, finding in looked.items() if finding is not None}


def test_learned_against_fixed_is_judged_by_the_primary_quantity():
    """A sign mistaken here would print the opposite of what was measured."""
    for of_fixed, expected in ((3.2, "confirmed"), (2.8, "refuted"), (3.0005, "refuted")):
        found = results(margin=0.01, learned=losses(3.0, 0.0), **{FIXED: losses(of_fixed)})
        assert verdicts(found)["learned against fixed"] == expected
    assert verdicts(results(learned=losses(3.0, 0.0), **{FIXED: losses(3.0005, 0.04)}))[
        "learned against fixed"
    ] == "undecided"  # fmt: skip


def test_a_claim_is_confirmed_by_all_comparisons_or_not_at_all():
    """Better than one of two fixed codes is not better than fixed codes."""
    arms = {"learned": losses(3.0, 0.0), "sinusoidal": losses(3.2), FIXED: losses(3.0005, 0.04)}
    assert verdicts(results(**arms))["learned against fixed"] == "undecided"
    assert verdicts(results(**arms | {FIXED: losses(3.2)}))["learned against fixed"] == "confirmed"


def test_a_mixture_must_beat_its_parts_and_its_control():
    """Equal to a table that starts as the sinusoid, it is that start and no balance."""
    arms = {"learned": losses(3.0, 0.0), FIXED: losses(3.1), MIXED: losses(2.9, 0.002)}
    assert verdicts(results(margin=0.01, **arms))["mixture"] == "confirmed"
    control = {"learned(init=sinusoidal)": losses(2.9)}
    assert verdicts(results(margin=0.01, **arms, **control))["mixture"] == "refuted"


def test_memory_is_judged_by_processes_of_their_own():
    """In one process after another, what earlier trainings left behind is in it."""
    found = results(learned=losses(3.0, 0.0), **{FIXED: losses(3.1)})
    assert verdicts(found)["memory"] == "refuted"
    for cell in found["cells"]:
        saved = 0.2 if cell["arm"] == FIXED else 0.0
        found["times"]["cells"][cell["key"]]["peak_memory_gb"] = (1 - saved) * 5
    assert verdicts(found)["memory"] == "confirmed"
    found["times"]["own_processes"] = False
    assert "memory" not in verdicts(found)


def test_an_early_loss_says_after_which_step_it_was_measured():
    """The last validation before a quarter of the steps may come long before it."""
    found = results(margin=0.01, learned=losses(3.0, 0.0), **{FIXED: losses(2.8)})
    for cell in found["cells"]:
        steps = [250, 500, 1500]
        cell["curves"]["validation/loss"] = {
            "steps": steps,
            "values": [cell["values"]["validation/loss"], 0, 0],
        }
    early = next(claim for claim in CLAIMS if claim.name == "early speed").look(found)
    assert early.measured.startswith("validation loss (nats per token) after 250 of 1,500 steps: ")
    assert early.verdict == "confirmed"


@pytest.mark.parametrize(("gain", "expected"), [(-0.2, "confirmed"), (0.2, "refuted")])
def test_small_data_is_the_gain_of_fixed_positions_at_the_smallest_part(gain, expected):
    """Better there than learned ones, and by more than on all pictures."""
    arms = {
        "learned, all": losses(3.0, 0.0), "fixed, all": losses(3.0), "learned, few": losses(4.0, 0.0),
        "fixed, few": losses(4.0 + gain, 0.002),
    }  # fmt: skip
    found = results(**arms)
    for arm in found["arms"]:
        arm["encoding"] = FIXED if "fixed" in arm["name"] else "learned"
        arm["differs_in"] = ["data.limit: null -> 60"] if "few" in arm["name"] else []
    assert verdicts(found)["small data"] == expected
    few = next(claim for claim in CLAIMS if claim.name == "small data").look(found).measured
    assert "at data.limit 60" in few
    assert "minus the same at data.limit null" in few


def test_pairs_under_a_second_axis_are_told_apart():
    """Two rows of the same words would be read as one number given twice."""
    parts = {"": [], ", few": ["data.limit: null -> 60"]}
    views = {"": [], ", mirrored": ["generator_training.views: 1 -> 4"]}
    differs = {
        f"{one}{part}{view}": [*parts[part], *views[view]]
        for one in ("learned", "fixed")
        for part in parts
        for view in views
    }
    found = results(**{name: losses(3.0, 0.0 if "learned" in name else 0.001) for name in differs})
    for arm in found["arms"]:
        arm["encoding"] = FIXED if "fixed" in arm["name"] else "learned"
        arm["differs_in"] = differs[arm["name"]]
    few = next(claim for claim in CLAIMS if claim.name == "small data").look(found).measured
    assert "minus learned at data.limit 60 " in few
    assert "minus learned at data.limit 60, generator_training.views 4 " in few


@pytest.mark.parametrize("sees", [True, False])
def test_features_that_do_not_see_places_decide_nothing(sees):
    """Moved parts of a picture would leave such a distance as it is, and so might wrong positions."""
    found = results(margin=0.01, learned=losses(3.0, 0.0), **{FIXED: losses(3.2), MIXED: losses(3.1)})
    found["primary"] = FRECHET
    found["shared"]["extractors"][0]["sees_places"] = sees
    assert ("learned against fixed" in verdicts(found)) == sees
    assert ("mixture" in verdicts(found)) == sees
    assert ("blind to places" in primary_column(found).label) != sees
    assert any("says nothing of positions" in line for line in advice(found)) != sees

    # An extractor of another name says nothing about this one.
    found["shared"]["extractors"][0]["extractor"] = "efficientnet_lite0_spatial"
    assert verdicts(found)["learned against fixed"] == "confirmed"


def test_two_seeds_decide_nothing():
    """By chance one claim of twenty would be confirmed at once."""
    found = results(margin=0.5, learned=losses(3.0, 0.0)[:2], **{FIXED: losses(3.2)[:2]})
    assert set(verdicts(found).values()) == {"undecided"}
