"""What the steps of a training change: all that a checkpoint holds, and the guard over it."""

from dataclasses import dataclass

from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn

from var_pe.processes import Processes
from var_pe.training.compilation import Compiled, make_ready
from var_pe.training.config import TrainingConfig
from var_pe.training.ema import EMA, whole
from var_pe.training.groups import parameter_groups
from var_pe.training.guard import Guard, GuardedAdamW
from var_pe.training.muon import GuardedMuon
from var_pe.training.opponent import OpponentTraining
from var_pe.training.task import Task
from var_pe.training.validations import Validations


@dataclass(frozen=True)
class State:
    """A model in training, with its average, optimizer, opponent, validations and guard."""

    # as the processes share it: DDP wraps it, FSDP cuts it into shards
    model: nn.Module
    # the same without a wrapper, whose parameters may be shards
    inner: nn.Module
    optimizer: AcceleratedOptimizer
    ema: EMA
    validations: Validations
    opponent: OpponentTraining | None
    guard: Guard

    @classmethod
    def new(cls, task: Task, config: TrainingConfig, accelerator: Accelerator, compiled: Compiled) -> "State":
        """The state before the first step; the average is not compiled, as it is used in plain passes."""
        # The average copies the model before `prepare`, which may wrap it or cut it into shards.
        ema = EMA(task.model.to(accelerator.device))
        make_ready(task.model, compiled, checkpointing=config.checkpointing)

        guard = Guard(accelerator.device)
        by_muon = config.optimizer == "muon"
        groups = parameter_groups(task.model, config.weight_decay, task.layers, matrices=by_muon)
        kind = GuardedMuon if by_muon else GuardedAdamW
        optimizer = kind(groups, betas=(config.betas[0], config.betas[1]), fused=True)
        optimizer.found_inf = guard.found_inf

        model, prepared = accelerator.prepare(task.model, optimizer)
        validations = Validations(task.measure, config, Processes.of(accelerator))
        opponent = None
        if task.opponent is not None:
            opponent = OpponentTraining(task.opponent, config, accelerator, guard)
        return cls(model, accelerator.unwrap_model(model), prepared, ema, validations, opponent, guard)

    def clip_gradients(self, accelerator: Accelerator, most: float) -> dict[str, Tensor]:
        """Scales gradients down to a norm of at most `most`; returns the norms before, by name."""
        norms = {"grad_norm": whole(accelerator.clip_grad_norm_(self.model.parameters(), most))}
        if self.opponent is not None:
            norms["opponent_grad_norm"] = self.opponent.gradient_norm()
        return norms
