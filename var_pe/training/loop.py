"""The training loop of tokenizer, generator and classifier: one process or many, resumable bit for bit."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn

from var_pe.data.image_set import Batch
from var_pe.models.kernels import serving
from var_pe.processes import exchange, reset_peak_memory
from var_pe.progress import StepProgress
from var_pe.seeding import mix
from var_pe.training.batches import endless_batches, on_device
from var_pe.training.config import TrainingConfig
from var_pe.training.groups import forget_steps, set_rates, zero_gradients
from var_pe.training.history import History, rate_at
from var_pe.training.precision import autocast
from var_pe.training.reports import Due, Reports
from var_pe.training.run import CHECKPOINTS_KEPT, Run, checkpoint_bytes
from var_pe.training.schedule import ema_decay
from var_pe.training.state import State
from var_pe.training.stopping import Interrupted, stop_signals
from var_pe.training.task import Task


@dataclass(frozen=True)
class Trained:
    """What a training leaves."""

    # the averaged weights to keep, on the main process, and the step that they are of
    model: nn.Module
    step: int
    # steps done, fewer than asked for where the patience was over
    steps_done: int
    # its validated value (`Task.measure`); None: it was not validated
    validated: float | None


def train(
    task: Task,
    config: TrainingConfig,
    run: Run,
    history: History,
    *,
    seed: int,
) -> Trained:
    """Trains `task` for as many steps as the history asks for in all, resuming from the newest checkpoint.

    The learning rate follows from the history, and so do what is compiled and the kernels of attention.

    Raises:
        FloatingPointError: a loss or gradient was not finite; neither its step nor those after it have
            updated or saved anything.
        Interrupted: a signal to stop came; the step has been finished and saved.
    """
    accelerator, compiled = run.accelerator, history.compiled or "none"
    reset_peak_memory(accelerator.device)  # so that the log has this training's peak, not an earlier one's
    state = State.new(task, config, accelerator, compiled)
    model, optimizer = state.model, state.optimizer

    steps = range(resume(state, run, history), history.steps)
    batches = batches_of(steps, task, config, accelerator, seed)
    if steps.start == 0:
        start(state, task, config, accelerator, seed)

    progress = StepProgress(steps, config.batch, accelerator.device, shown=accelerator.is_main_process)
    model.train()
    with serving(history.kernels), exchange(accelerator) as others, stop_signals(others) as stop:
        reports = Reports(task, config, run, state, progress, stop)
        for step in begin(reports):
            # Compiling takes long in the first step, before which all is saved: a signal ends it at once.
            stop.ends = compiled != "none" and step == steps.start

            # Dropout masks follow from process and step, all other randomness from the image.
            set_seed(mix(seed, "step", accelerator.process_index, step) % 2**32)
            rate = rate_at(step, history.asked, config)
            frozen = set_rates(optimizer.param_groups, task.model, task.layers, rate, step)

            # The gradient is the mean over the step's micro-batches; processes exchange it at the last one.
            means: dict[str, Tensor] = {}
            for micro in range(config.accumulate):
                batch = next(batches)
                with exchanging(state, accelerator, gradients=micro + 1 == config.accumulate):
                    with autocast(config.precision, accelerator.device.type):
                        loss, values = task.loss(model, batch, step)
                    accelerator.backward(loss / config.accumulate)
                if state.opponent is not None:
                    values |= state.opponent.backward(step)
                add_mean(means, {"loss": loss, **values}, config.accumulate)
            stop.ends = False  # from here on there is something to save

            # A loss or gradient that is not finite cannot damage the weights: the guard stops all updates.
            zero_gradients(frozen)
            norms = state.clip_gradients(accelerator, config.max_grad_norm)
            state.guard.look(step, {"loss": accelerator.reduce(means["loss"], "mean")} | norms)
            optimizer.step()
            forget_steps(frozen, optimizer.optimizer)
            optimizer.zero_grad()
            if state.opponent is not None:
                state.opponent.step(rate)

            after = task.after_step(state.inner, step, accelerator, state.guard.updates)
            state.ema.update(state.inner, ema_decay(step, config.ema), state.guard.updates)
            if finish_step(step, means | after | norms, rate, reports):
                break

    return finish(reports)


def resume(state: State, run: Run, history: History) -> int:
    """Restores the newest checkpoint; returns the number of steps done, 0 for a new run."""
    done, steps = run.load(state), history.steps
    if done:
        run.processes.say(f"resuming after step {done} of {steps}")

    if done == history.asked[-1].from_step:
        state.validations.start_counting_anew()
    state.validations.say_if_there_is_no_choice(steps)
    return done


def batches_of(
    steps: range, task: Task, config: TrainingConfig, accelerator: Accelerator, seed: int
) -> Iterator[Batch]:
    """This process's micro-batches of the steps, on its device."""
    if not steps:
        return iter(())
    ahead = endless_batches(task.dataset, config, accelerator, seed, steps.start)
    return on_device(islice(ahead, len(steps) * config.accumulate), accelerator.device)


def start(state: State, task: Task, config: TrainingConfig, accelerator: Accelerator, seed: int) -> None:
    """Lets the task of a new run use its first batch before the first step."""
    first = next(endless_batches(task.dataset, config, accelerator, seed, 0))
    with torch.compiler.set_stance("force_eager"):
        task.start(state.inner, first, accelerator)
    state.ema.update(state.inner, 0.0, state.guard.updates)


def begin(reports: Reports) -> range:
    """Makes up for what was due at the newest checkpoint's step; returns the steps that are left.

    Raises:
        Interrupted: a signal to stop came.
    """
    config, steps = reports.config, reports.progress.steps
    reports.make_up(steps.start, Due.after(steps.start, steps.stop, config))
    if reports.stop.agreed(reports.run.accelerator):
        raise Interrupted.after(reports.stop.agreed_on, steps.start, steps.stop)
    return range(0) if reports.state.validations.patience_is_over else steps


def exchanging(state: State, accelerator: Accelerator, *, gradients: bool) -> AbstractContextManager[object]:
    """Whether the processes exchange the gradients of a backward pass in the block."""
    return nullcontext() if gradients else accelerator.no_sync(state.model)


def add_mean(means: dict[str, Tensor], values: Mapping[str, Tensor], number: int) -> None:
    """Adds the values of one of `number` micro-batches to their means, on the device."""
    for name, value in values.items():
        means[name] = means.get(name, 0) + value.detach() / number


def finish_step(step: int, values: Mapping[str, Tensor], rate: float, reports: Reports) -> bool:
    """What is due after a step: log, validation, preview, checkpoint; returns whether it was the last one.

    Only where something is due the host waits for the device, and hears from the guard first.

    Raises:
        FloatingPointError: a loss or gradient was not finite, in this step or before.
        Interrupted: a process was asked to stop, and all is saved.
    """
    config, run, state = reports.config, reports.run, reports.state
    progress, stop = reports.progress, reports.stop
    done, steps = step + 1, progress.steps.stop
    progress.advance()
    if progress.measured_first_steps:
        with_best = state.validations.has_a_choice(steps)
        size = checkpoint_bytes(state.model, state.optimizer, with_best=with_best)
        progress.say_rest(size, CHECKPOINTS_KEPT)

    due = Due.after(done, steps, config)
    if due.anything:
        state.guard.check(run.kept())
    if due.log:
        reports.log(done, values, rate)
    reports.look(done, due)
    last = due.last or state.validations.patience_is_over

    stopping = stop.agreed(run.accelerator) if due.anything else stop.agreed_by_now(run.accelerator)
    if last or stopping or due.checkpoint:
        state.guard.check(run.kept())
        run.save(done, state)
    if stopping or (last and stop.agreed(run.accelerator)):
        progress.close()
        raise Interrupted.after(stop.agreed_on, done, steps)
    return last


def finish(reports: Reports) -> Trained:
    """Closes the training after its last step: the average to keep, which is the best one or the last."""
    run, progress, validations = reports.run, reports.progress, reports.state.validations
    progress.close()
    done, steps = progress.count, progress.steps.stop
    if done < steps:
        run.processes.say(
            f"ended early after step {done} of {steps}: patience={reports.config.patience}, and the last "
            f"{validations.without_better} validations brought no new best"
        )

    kept_step = validations.put_best_into(reports.state.ema.model, done)
    run.processes.wait()
    run.accelerator.free_memory()
    return Trained(reports.state.ema.model, kept_step, done, validations.value_of(kept_step))
