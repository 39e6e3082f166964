"""The training loop of tokenizer, generator and classifier: one process or many, resumable bit for bit."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice

import torch
from accelerate.utils import set_seed
from torch import Tensor, nn

from var_pe.data.image_set import Batch
from var_pe.processes import exchange, reset_peak_memory
from var_pe.progress import StepProgress
from var_pe.seeding import mix
from var_pe.training.batches import endless_batches, on_device
from var_pe.training.compilation import make_ready
from var_pe.training.config import TrainingConfig
from var_pe.training.ema import EMA, whole
from var_pe.training.groups import forget_steps, parameter_groups, set_rates, zero_gradients
from var_pe.training.guard import Guard, GuardedAdamW
from var_pe.training.history import History, rate_at
from var_pe.training.opponent import OpponentTraining
from var_pe.training.reports import Due, Reports, in_precision
from var_pe.training.run import CHECKPOINTS_KEPT, Run, checkpoint_bytes
from var_pe.training.schedule import ema_decay
from var_pe.training.stopping import Interrupted, stop_signals
from var_pe.training.task import Task
from var_pe.training.validations import Validations


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

    The learning rate follows from the history, and so does what is compiled. The average is not, whatever the
    model is: validations and previews are plain passes.

    Raises:
        FloatingPointError: a loss or gradient was not finite; neither its step nor those after it have
            updated or saved anything.
        Interrupted: a signal to stop came; the step has been finished and saved.
    """
    accelerator, steps = run.accelerator, history.steps
    compiled = history.compiled or "none"
    reset_peak_memory(accelerator.device)  # so that the log has this training's peak, not an earlier one's

    # The average copies the model before `prepare`, which may wrap it or cut it into shards.
    ema = EMA(task.model.to(accelerator.device))
    make_ready(task.model, compiled, checkpointing=config.checkpointing)
    optimizer = GuardedAdamW(
        parameter_groups(task.model, config.weight_decay, task.layers),
        betas=(config.betas[0], config.betas[1]),
        fused=True,
    )
    guard = Guard(accelerator.device)
    optimizer.found_inf = guard.found_inf
    model, optimizer = accelerator.prepare(task.model, optimizer)
    inner = accelerator.unwrap_model(model)
    opponent = None if task.opponent is None else OpponentTraining(task.opponent, config, accelerator, guard)

    # A run goes on from its newest checkpoint. A new one may use its first batch before the first step.
    validations = Validations(task.measure, config, run.processes)
    done = run.load(model, optimizer.optimizer, ema, validations, opponent)
    if done:
        run.processes.say(f"resuming after step {done} of {steps}")

    if done == history.asked[-1].from_step:
        validations.start_counting_anew()
    validations.say_if_there_is_no_choice(steps)
    batches: Iterator[Batch] = iter(())
    if done < steps:
        ahead = endless_batches(task.dataset, config, accelerator, seed, done)
        batches = on_device(islice(ahead, (steps - done) * config.accumulate), accelerator.device)
    if done == 0:
        first = next(endless_batches(task.dataset, config, accelerator, seed, 0))
        with torch.compiler.set_stance("force_eager"):
            task.start(inner, first, accelerator)
        ema.update(inner, 0.0, guard.updates)

    progress = StepProgress(
        range(done, steps), config.batch, accelerator.device, shown=accelerator.is_main_process
    )
    model.train()
    with exchange(accelerator) as others, stop_signals(others) as stop:
        # A run that was stopped after the newest checkpoint's step makes up for what was due there.
        reports = Reports(task, config, run, ema, validations, progress, stop)
        reports.make_up(done, Due.after(done, steps, config))
        if stop.agreed(accelerator):
            raise Interrupted.after(stop.agreed_on, done, steps)

        resumed_after = done
        for step in range(done, done if validations.patience_is_over else steps):
            # Compiling takes long in the first step, before which all is saved: a signal ends it at once.
            stop.ends = compiled != "none" and step == resumed_after

            # Dropout masks follow from process and step, all other randomness from the image.
            set_seed(mix(seed, "step", accelerator.process_index, step) % 2**32)
            rate = rate_at(step, history.asked, config)
            frozen = set_rates(optimizer.param_groups, task.model, task.layers, rate, step)

            # The gradient is the mean over the step's micro-batches; processes exchange it at the last one.
            logs: dict[str, Tensor] = {}
            for micro in range(config.accumulate):
                batch = next(batches)
                synced = micro + 1 == config.accumulate
                with nullcontext() if synced else accelerator.no_sync(model):
                    with in_precision(config, accelerator):
                        loss, values = task.loss(model, batch, step)
                    accelerator.backward(loss / config.accumulate)
                if opponent is not None:
                    values |= opponent.backward(step)
                for name, value in {"loss": loss, **values}.items():
                    logs[name] = logs.get(name, 0) + value.detach() / config.accumulate

            # From here on there is something to save.
            stop.ends = False

            # A loss or gradient that is not finite cannot damage the weights: the guard stops all updates.
            zero_gradients(frozen)
            norms = {
                "grad_norm": whole(accelerator.clip_grad_norm_(model.parameters(), config.max_grad_norm))
            }
            if opponent is not None:
                norms["opponent_grad_norm"] = opponent.gradient_norm()
            guard.look(step, {"loss": accelerator.reduce(logs["loss"], "mean")} | norms)
            optimizer.step()
            forget_steps(frozen, optimizer.optimizer)
            optimizer.zero_grad()
            if opponent is not None:
                opponent.step(rate)

            after = task.after_step(inner, step, accelerator, guard.updates)
            ema.update(inner, ema_decay(step, config.ema), guard.updates)
            progress.advance()
            if progress.measured_first_steps:
                size = checkpoint_bytes(model, with_best=validations.has_a_choice(steps))
                progress.say_rest(size, CHECKPOINTS_KEPT)

            # What is due. Only there the host waits for the device, and hears from the guard first.
            done = step + 1
            due = Due.after(done, steps, config)
            if due.anything:
                guard.check(run.kept())
            if due.log:
                reports.log(done, logs | after | norms, rate)
            reports.look(done, due)
            last = due.last or validations.patience_is_over

            stopping = stop.agreed(accelerator) if due.anything else stop.agreed_by_now(accelerator)
            if last or stopping or due.checkpoint:
                guard.check(run.kept())
                run.save(done, model, optimizer.optimizer, ema, validations, opponent)
            if stopping or (last and stop.agreed(accelerator)):
                progress.close()
                raise Interrupted.after(stop.agreed_on, done, steps)
            if last:
                break

    progress.close()
    if done < steps:
        run.processes.say(
            f"ended early after step {done} of {steps}: patience={config.patience}, and none of the last "
            f"{validations.without_better} validations was the best"
        )
    kept_step = validations.put_best_into(ema.model, done)
    run.processes.wait()
    accelerator.free_memory()
    return Trained(ema.model, kept_step, done, validations.value_of(kept_step))
