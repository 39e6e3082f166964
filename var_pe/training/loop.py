"""The training loop of tokenizer, generator and classifier: one process or many, resumable bit for bit."""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext, suppress
from time import monotonic
from typing import cast

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device, set_seed
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from var_pe.data.image_set import Batch, TrainingSet
from var_pe.data.sampler import EndlessSampler
from var_pe.data.streams import ImageStream
from var_pe.processes import reset_peak_memory
from var_pe.progress import StepProgress
from var_pe.seeding import mix
from var_pe.training.config import TrainingConfig
from var_pe.training.ema import EMA
from var_pe.training.groups import forget_steps, parameter_groups, set_rates, zero_gradients
from var_pe.training.run import CHECKPOINTS_KEPT, Run, checkpoint_bytes
from var_pe.training.schedule import ema_decay, learning_rate
from var_pe.training.stopping import (
    AskedToStop,
    Interrupted,
    follow_training,
    signals_held_back,
    stop_signals,
)
from var_pe.training.task import Task


def train(task: Task, config: TrainingConfig, run: Run, *, steps: int, seed: int) -> EMA:
    """Trains `task` for `steps` optimizer steps in all, resuming from the run's newest checkpoint.

    Returns the averaged weights.

    Raises:
        FloatingPointError: a loss or gradient is not finite; the step has updated and saved nothing.
        Interrupted: a signal to stop came; the step has been finished and saved.
    """
    accelerator = run.accelerator
    reset_peak_memory(accelerator.device)  # so that the log has this training's peak, not an earlier one's

    # The average copies the model before `prepare`, which may wrap it or cut it into shards.
    ema = EMA(task.model.to(accelerator.device))
    optimizer = torch.optim.AdamW(
        parameter_groups(task.model, config.weight_decay, task.layers),
        betas=(config.betas[0], config.betas[1]),
        fused=True,
    )
    model, optimizer = accelerator.prepare(task.model, optimizer)
    inner = accelerator.unwrap_model(model)

    # A run goes on from its newest checkpoint. A new one may use its first batch before the first step.
    done = run.load(model, optimizer.optimizer, ema)
    if done:
        run.processes.say(f"resuming after step {done} of {steps}")
    batches: Iterator[Batch] = iter(())
    if done < steps:
        batches = endless_batches(task.dataset, config, accelerator, seed, done)
    if done == 0:
        first = next(endless_batches(task.dataset, config, accelerator, seed, 0))
        task.start(inner, first, accelerator)
        ema.update(inner, 0.0)

    progress = StepProgress(range(done, steps), config.batch, shown=accelerator.is_main_process)
    model.train()
    with stop_signals() as stop:
        # A run that was stopped after the newest checkpoint's step makes up for what was due there.
        with suppress(AskedToStop):
            last, step = done == steps, done - 1
            if done and (last or _due(step, config.validate_every)) and not run.is_validated(done):
                _log(run, progress, {"step": done, **task.validate(ema.model, accelerator)})
            if done and (last or _due(step, config.preview_every)) and not run.picture(done).exists():
                with stop.breaking_off():
                    _preview(task, config, run, ema, step)
        if stop.agreed(accelerator):
            raise Interrupted.after(stop.agreed_on, done, steps)

        for step in range(done, steps):
            # Dropout masks follow from process and step, all other randomness from the image.
            set_seed(mix(seed, "step", accelerator.process_index, step) % 2**32)
            rate = learning_rate(
                step,
                peak=config.learning_rate,
                steps=steps,
                warmup=round(config.warmup * steps),
                schedule=config.schedule,
                final_ratio=config.final_ratio,
            )
            frozen = set_rates(optimizer.param_groups, task.model, task.layers, rate, step)

            # The gradient is the mean over the step's micro-batches; processes exchange it at the last one.
            logs: dict[str, Tensor] = {}
            for micro in range(config.accumulate):
                batch = send_to_device(next(batches), accelerator.device)
                synced = micro + 1 == config.accumulate
                with nullcontext() if synced else accelerator.no_sync(model):
                    with in_precision(config, accelerator):
                        loss, values = task.loss(model, batch, step)
                    accelerator.backward(loss / config.accumulate)
                for name, value in {"loss": loss, **values}.items():
                    logs[name] = logs.get(name, 0) + value.detach() / config.accumulate

            # A loss or gradient that is not finite stops the run before it can damage the weights.
            zero_gradients(frozen)
            norm = accelerator.clip_grad_norm_(model.parameters(), config.max_grad_norm)
            _refuse_non_finite(step, run, {"loss": logs["loss"], "grad_norm": norm})
            optimizer.step()
            forget_steps(frozen, optimizer.optimizer)
            optimizer.zero_grad()

            after = task.after_step(inner, step, accelerator)
            ema.update(inner, ema_decay(step, config.ema))
            progress.advance()
            if progress.measured_first_steps:
                progress.say_rest(accelerator.device, checkpoint_bytes(model), CHECKPOINTS_KEPT)

            # Logs, validation, preview, checkpoint. A signal breaks off validation and preview.
            last = step + 1 == steps
            if step % config.log_every == 0 or last:
                means = {name: accelerator.reduce(v.float(), "mean").item() for name, v in logs.items()}
                entry = {"step": step + 1, **means, **after, "grad_norm": float(norm), "learning_rate": rate}
                _log(run, progress, entry | progress.rates(accelerator.device))
            with suppress(AskedToStop):
                if last or _due(step, config.validate_every):
                    began = monotonic()
                    scores = task.validate(ema.model, accelerator)
                    scores["validation_seconds"] = monotonic() - began
                    _log(run, progress, {"step": step + 1, **scores})
                if last or _due(step, config.preview_every):
                    with stop.breaking_off():
                        _preview(task, config, run, ema, step)

            stopping = stop.agreed(accelerator)
            if last or stopping or _due(step, config.save_every):
                run.save(step + 1, model, optimizer.optimizer, ema)
            if stopping or (last and stop.agreed(accelerator)):
                progress.close()
                raise Interrupted.after(stop.agreed_on, step + 1, steps)

    progress.close()
    run.processes.wait()
    accelerator.free_memory()
    return ema


def in_precision(config: TrainingConfig, accelerator: Accelerator) -> torch.autocast:
    """Autocast to the precision that a training computes in; weights and optimizer stay float32."""
    return torch.autocast(accelerator.device.type, torch.bfloat16, enabled=config.precision == "bf16")


def _refuse_non_finite(step: int, run: Run, values: Mapping[str, Tensor]) -> None:
    """Stops the training if one of the values is NaN or infinite."""
    bad = {name: float(value) for name, value in values.items() if not math.isfinite(float(value))}
    if not bad:
        return

    saved = run.steps_saved()
    kept = "nothing was saved yet"
    if saved:
        kept = f"the last good state is step {saved[-1]} in {run.checkpoints}"
    found = ", ".join(f"{name} is {value}" for name, value in bad.items())
    raise FloatingPointError(f"step {step + 1}: {found}; nothing was updated, {kept}")


def _due(step: int, every: int) -> bool:
    return every > 0 and (step + 1) % every == 0


def _log(run: Run, progress: StepProgress, entry: dict[str, float]) -> None:
    """Writes an entry to the run's log, its trackers and the screen."""
    run.log(entry)
    values = {name: value for name, value in entry.items() if name != "step"}
    run.accelerator.log(values, step=int(entry["step"]))
    progress.say(entry)


def _preview(task: Task, config: TrainingConfig, run: Run, ema: EMA, step: int) -> None:
    """Shows the task's sheet, made in the precision of the training; scores are computed in float32."""
    if run.accelerator.is_main_process:
        with in_precision(config, run.accelerator):
            sheet = task.preview(ema.model)
        run.show(sheet, step + 1)


def endless_batches(
    dataset: TrainingSet, config: TrainingConfig, accelerator: Accelerator, seed: int, step: int
) -> Iterator[Batch]:
    """This process's micro-batches from optimizer step `step` on, without end.

    Raises:
        ValueError: the micro-batch cannot be divided evenly among the processes.
    """
    rank, world = accelerator.process_index, accelerator.num_processes
    micro = config.batch // config.accumulate
    if micro % world:
        raise ValueError(
            f"batch / accumulate must be a multiple of the number of processes, "
            f"got {config.batch} / {config.accumulate} = {micro} over {world}"
        )
    pinned = accelerator.device.type == "cuda"

    # A stream is endless and holds this process's part only. A resumed run begins another pass.
    if isinstance(dataset, ImageStream):
        dataset.set_epoch(step)
        loader = DataLoader(
            dataset,
            micro // world,
            num_workers=config.workers,
            pin_memory=pinned,
            worker_init_fn=follow_training,
        )
        return _numbered(loader, step * config.batch + rank * micro // world, micro)

    # The iterator is made at once, because making it draws from the generator of the dropout masks.
    assert dataset.num_images is not None, "only a stream has no length"
    sampler = EndlessSampler(dataset.num_images, micro, seed, rank, world, step * config.batch)
    images = cast(Dataset[Batch], dataset)
    with signals_held_back():
        return iter(
            DataLoader(
                images,
                batch_sampler=sampler,
                num_workers=config.workers,
                pin_memory=pinned,
                worker_init_fn=follow_training,
            )
        )


def _numbered(loader: Iterable[Batch], first: int, stride: int) -> Iterator[Batch]:
    """Numbers a stream's images by their draws in the run, which the stream does not know."""
    with signals_held_back():
        batches = iter(loader)
    for start, batch in zip(itertools.count(first, stride), batches, strict=False):
        yield {**batch, "draw_number": torch.arange(start, start + len(batch["label"]))}
