"""The end of a generator's training is said in one sentence, from its log."""

from var_pe.tasks.overfitting import at_its_end


def log(validated: list[float], trained: float) -> list[dict[str, float]]:
    entries = [{"step": 10.0 * (i + 1), "loss": trained} for i in range(10 * len(validated))]
    return [
        *entries,
        *({"step": 100.0 * (i + 1), "validation/loss": loss} for i, loss in enumerate(validated)),
    ]


def test_learning_by_heart_is_said_by_either_sign():
    said = at_its_end(log([5.2, 4.9, 5.12], 3.4))
    assert said.startswith("validation loss 5.12 nats a token after step 300, training loss 3.40: ")
    assert "it has risen since step 200 (4.90) and it is 1.72 above the training loss, so" in said
    assert "memorises" in at_its_end(log([5.0, 4.0], 3.4))
    assert "memorises" in at_its_end(log([3.5, 3.4, 3.6], 3.5))


def test_a_sound_training_and_one_without_validations_are_left_in_peace():
    assert at_its_end(log([4.0, 3.6, 3.5], 3.4)) == (
        "validation loss 3.50 nats a token after step 300, training loss 3.40"
    )
    assert at_its_end([{"step": 1.0, "loss": 3.0}]) == ""
