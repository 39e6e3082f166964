"""What diagnose says of tasks: what was measured, and no more."""

from dataclasses import replace

import pytest

from var_pe.diagnosis.task_findings import beside_the_best, clearly_below, for_task
from var_pe.evaluation.evidence import TASKS, TaskScore, read_evidence


def rows() -> list[TaskScore]:
    common = dict(task="segmentation", size=(32, 32), frozen=True, seeds=(0, 1, 2))
    return [
        TaskScore("learned", mean=0.60, spread=0.02, **common),
        TaskScore("rope", mean=0.70, spread=0.02, **common),
        TaskScore("alibi", mean=0.69, spread=0.02, **common),
        TaskScore("rope", mean=0.50, spread=0.02, **(common | {"frozen": False})),
    ]


def test_nothing_is_said_of_a_task_but_what_was_measured():
    """A difference within the spreads is not reported, and what was not measured is not guessed."""
    (worse,) = for_task("learned", "segmentation", rows())
    assert worse.verdict == "problem"
    assert "learned reached 60.0 ± 2.0 % (3 seeds); the best, rope, 70.0" in worse.said
    (even,) = for_task("alibi", "segmentation", rows())
    assert even.verdict == "fine"
    (unknown,) = for_task("sinusoidal", "segmentation", rows())
    assert "sinusoidal was not measured" in unknown.said
    assert "measured: learned, rope, alibi" in unknown.said
    (nothing,) = for_task("learned", "detection", [])
    assert "was not measured" in nothing.said
    assert [own.frozen for own, _ in beside_the_best("rope", "segmentation", rows())] == [True, False]


@pytest.mark.parametrize(("mean", "below"), [(0.60, False), (0.53, False), (0.51, True)])
def test_clearly_below_is_more_than_both_spreads_together(mean, below):
    """0.7 ± 0.08 and ± 0.1: where the two reach into each other, nothing is clear."""
    best = replace(rows()[1], spread=0.08)
    assert clearly_below(replace(rows()[0], mean=mean, spread=0.10), best) is below
    assert not clearly_below(replace(rows()[0], mean=0.1, spread=None), best)


def test_rivals_are_those_under_the_same_circumstances():
    """Better at another size, at another task or fine-tuned is no rival."""
    own, rival = rows()[0], rows()[1]
    easier = [replace(rival, mean=0.9, size=(64, 64)), replace(rival, mean=0.9, frozen=False)]
    easier += [replace(rival, mean=0.9, frozen=None), replace(rival, mean=0.9, task="detection")]
    assert beside_the_best("learned", "segmentation", [own, *easier]) == [(own, own)]
    assert beside_the_best("learned", "segmentation", [own, *easier, rival]) == [(own, rival)]


def test_an_encoding_is_found_however_its_line_is_spaced():
    (found,) = for_task(
        "mixed(learned=0.7,sinusoidal=0.3)",
        "segmentation",
        [replace(rows()[0], encoding="mixed(learned=0.7, sinusoidal=0.3)")],
    )
    assert "the best that was measured" in found.said


def test_the_table_of_the_docs_judges_every_task():
    """Nothing about classification would leave the task that most people have without a word."""
    kept = read_evidence()
    assert {row.task for row in kept} == set(TASKS)
    for task in TASKS:
        said = [finding.said for finding in for_task("rope", task, kept)]
        assert any("rope reached" in sentence for sentence in said)
