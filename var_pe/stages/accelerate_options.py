"""Options that Accelerate takes from its launcher, its config file and the environment: obeyed or refused.

The settings of a run say what its weights follow from. An option that says otherwise is refused by the name
of the setting to use; what an option may decide (device, processes, shards) is recorded with the run. The
table of all options is in docs/launching.md.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType

from var_pe.stages.launcher import was_meant_for_several
from var_pe.training.config import TrainingConfig
from var_pe.training.precision import settled

OFF = ("", "no", "none", "false", "0")


@dataclass(frozen=True)
class Refused:
    """An option that is refused unless it has one of these values or is off."""

    # the option, as accelerate's launcher and config file call it
    name: str
    instead: str
    harmless: tuple[str, ...] = ()


NOT_OFFERED = "only plain data parallelism and FSDP are supported: use a file of configs/accelerate/"

# By the variable that carries the option to the processes
REFUSED = {
    "ACCELERATE_DYNAMO_BACKEND": Refused(
        "dynamo_backend",
        "set compile in the training's own section, such as generator_training.compile, "
        "and launch with --dynamo_backend no",
    ),
    "ACCELERATE_USE_DEEPSPEED": Refused("use_deepspeed", NOT_OFFERED),
    "ACCELERATE_USE_MEGATRON_LM": Refused("use_megatron_lm", NOT_OFFERED),
    "ACCELERATE_USE_PARALLELISM_CONFIG": Refused("use_parallelism_config", NOT_OFFERED),
    "ACCELERATE_SAGEMAKER_DISTRIBUTED_TYPE": Refused("compute_environment: AMAZON_SAGEMAKER", NOT_OFFERED),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": Refused(
        "gradient_accumulation_steps",
        "set accumulate in the training's own section, such as generator_training.accumulate",
        ("1", "auto"),
    ),
    "ACCELERATE_GRADIENT_CLIPPING": Refused(
        "gradient_clipping",
        "set max_grad_norm in the training's own section, such as generator_training.max_grad_norm",
        ("auto",),
    ),
    "ACCELERATE_DOWNCAST_BF16": Refused("downcast_bf16", "weights stay float32 here"),
}

# Under FSDP alone
REFUSED_OF_FSDP = {
    "FSDP_VERSION": Refused(
        "fsdp_version", "only version 2 of FSDP is supported: set fsdp_version: 2", ("2",)
    ),
    "FSDP_CPU_RAM_EFFICIENT_LOADING": Refused(
        "fsdp_cpu_ram_efficient_loading",
        "initial weights follow from the seed on every process: set fsdp_cpu_ram_efficient_loading: false",
    ),
    "FSDP_OFFLOAD_PARAMS": Refused("fsdp_offload_params", "set fsdp_offload_params: false"),
    "FSDP_ACTIVATION_CHECKPOINTING": Refused(
        "fsdp_activation_checkpointing",
        "set checkpointing in the training's own section, such as generator_training.checkpointing, "
        "and fsdp_activation_checkpointing: false",
    ),
}

# How a model may be spread; `NO` is one process
SPREADS = (
    DistributedType.NO,
    DistributedType.MULTI_CPU,
    DistributedType.MULTI_GPU,
    DistributedType.MULTI_XPU,
    DistributedType.MULTI_NPU,
    DistributedType.FSDP,
)


def refuse_options(trainings: Sequence[TrainingConfig], environment: Mapping[str, str] = os.environ) -> None:
    """Refuses the options that would change weights; called before Accelerate reads them.

    Raises:
        ValueError: one of them is set.
    """
    _refuse(REFUSED, environment)
    if is_on(environment, "ACCELERATE_USE_FSDP"):
        _refuse(REFUSED_OF_FSDP, environment)
        if any(training.optimizer == "muon" for training in trainings):
            raise ValueError(
                "accelerate's use_fsdp splits matrices, which optimizer=muon needs whole: set the "
                "optimizer of tokenizer_training, generator_training or classifier_training to adamw"
            )

    asked = environment.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    device = device_asked_for(environment)
    own = sorted({settled(training.precision, device) for training in trainings} or {"float32"})
    if asked not in OFF and own != [asked]:
        instead = "this command computes in float32: leave it out"
        if trainings:
            instead = (
                f"the settings say {' and '.join(own)}: set precision in the training's own section, such as "
                f"generator_training.precision (auto, float32 or bf16)"
            )
        raise ValueError(
            f"accelerate's mixed_precision is {asked} (ACCELERATE_MIXED_PRECISION), but {instead} "
            f"and launch with --mixed_precision no"
        )


def _refuse(options: Mapping[str, Refused], environment: Mapping[str, str]) -> None:
    for variable, option in options.items():
        value = environment.get(variable, "")
        if value.lower() not in (*OFF, *option.harmless):
            raise ValueError(f"accelerate's {option.name} is {value} ({variable}), but {option.instead}")


def device_asked_for(environment: Mapping[str, str] = os.environ) -> str:
    """The type of device that Accelerate will use: the one that is asked for, or else the best one here.

    Raises:
        ValueError: a device is asked for that torch does not know.
    """
    asked = environment.get("ACCELERATE_TORCH_DEVICE")
    try:
        if asked:
            return torch.device(asked).type
    except RuntimeError:
        raise ValueError(f"ACCELERATE_TORCH_DEVICE must name a device of torch, got {asked}") from None
    # A torch that was built for GPUs names them as the current accelerator on machines without any, too.
    best = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return "cpu" if is_on(environment, "ACCELERATE_USE_CPU") or best is None else best.type


def is_on(environment: Mapping[str, str], variable: str) -> bool:
    return environment.get(variable, "").lower() not in OFF


def check_spread(accelerator: Accelerator, environment: Mapping[str, str] = os.environ) -> None:
    """Checks that the processes are those that were asked for, and share the model as was asked for.

    Raises:
        ValueError: they are not.
    """
    asked = int(environment.get("WORLD_SIZE", 1))
    if accelerator.num_processes != asked:
        raise ValueError(
            f"the launcher started {asked} processes but each runs alone; without a GPU, set "
            "ACCELERATE_USE_CPU=true before accelerate launch"
        )

    if asked == 1 and was_meant_for_several():
        raise ValueError(
            "accelerate's num_processes is more than 1, but its launcher started one process, which would "
            "train alone: launch with configs/accelerate/cpu_2_processes.yaml or --num_processes 1"
        )

    spread = accelerator.distributed_type
    if spread not in SPREADS:
        raise ValueError(f"accelerate's distributed_type is {spread.value}, but {NOT_OFFERED}")
    if is_on(environment, "ACCELERATE_USE_FSDP") and spread != DistributedType.FSDP:
        raise ValueError(
            "accelerate's use_fsdp is set (ACCELERATE_USE_FSDP), but FSDP needs GPUs and the processes "
            f"run as {spread.value}: launch without it"
        )
