"""Reads off a generator's log whether it has memorised its training pictures (overfitting)."""

from collections.abc import Sequence

from var_pe.training.log import LogEntry

# Nats a token. Between validations at hand noise is less than the first; the second is a rule of thumb.
RISEN = 0.02
GAP = 0.5
# Share of the steps, the last ones, over which the training loss is averaged
LAST = 0.1


def at_its_end(log: Sequence[LogEntry]) -> str:
    """One sentence on the last losses of a training and what to do about them; "" without validations."""
    validated = [(entry["step"], entry["validation/loss"]) for entry in log if "validation/loss" in entry]
    if not validated:
        return ""
    last_step, last = validated[-1]
    best_step, best = min(validated, key=lambda pair: pair[1])
    said = f"validation loss {last:.2f} nats a token after step {last_step:g}"

    # By which of the two signs more steps would make it worse
    signs = []
    if last - best > RISEN:
        signs.append(f"it has risen since step {best_step:g} ({best:.2f})")
    steps = last_step - LAST * last_step
    late = [entry["loss"] for entry in log if "loss" in entry and steps <= entry["step"] <= last_step]
    if late:
        trained = sum(late) / len(late)
        said += f", training loss {trained:.2f}"
        if last - trained > GAP:
            signs.append(f"it is {last - trained:.2f} above the training loss")

    if not signs:
        return said
    return (
        f"{said}: {' and '.join(signs)}, so the generator memorises its training pictures; more pictures, "
        "data.flip=true, a smaller generator or fewer steps help, more steps do not"
    )
