"""What Accelerate's launcher, file and environment say changes no weights behind the settings' back."""

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType

from var_pe.stages.accelerate_options import check_spread, device_asked_for, refuse_options
from var_pe.tasks.generator import GeneratorTraining
from var_pe.tasks.tokenizer import TokenizerTraining
from var_pe.training.run import circumstances

PLAIN = {  # what the launcher of one process always says
    "ACCELERATE_MIXED_PRECISION": "no",
    "ACCELERATE_DYNAMO_BACKEND": "NO",
    "ACCELERATE_DYNAMO_MODE": "default",
    "ACCELERATE_DYNAMO_USE_FULLGRAPH": "False",
    "ACCELERATE_DYNAMO_USE_DYNAMIC": "False",
    "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION": "False",
    "ACCELERATE_USE_CPU": "True",
}
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true"}


def trainings(precision):
    return TokenizerTraining(precision=precision), GeneratorTraining(precision=precision)


@pytest.mark.parametrize(
    ("variable", "value", "setting"),
    [
        ("ACCELERATE_MIXED_PRECISION", "bf16", "generator_training.precision"),
        ("ACCELERATE_MIXED_PRECISION", "fp16", "generator_training.precision"),
        ("ACCELERATE_MIXED_PRECISION", "fp8", "--mixed_precision no"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "--dynamo_backend no"),
        ("ACCELERATE_USE_DEEPSPEED", "true", "configs/accelerate/"),
        ("ACCELERATE_USE_MEGATRON_LM", "true", "configs/accelerate/"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "true", "configs/accelerate/"),
        ("ACCELERATE_SAGEMAKER_DISTRIBUTED_TYPE", "DATA_PARALLEL", "configs/accelerate/"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "generator_training.accumulate"),
        ("ACCELERATE_GRADIENT_CLIPPING", "0.5", "max_grad_norm"),
        ("ACCELERATE_DOWNCAST_BF16", "true", "float32"),
        ("ACCELERATE_TORCH_DEVICE", "gpu0", "a device of torch"),
        ("FSDP_VERSION", "1", "fsdp_version: 2"),
        ("FSDP_CPU_RAM_EFFICIENT_LOADING", "true", "fsdp_cpu_ram_efficient_loading: false"),
        ("FSDP_OFFLOAD_PARAMS", "true", "fsdp_offload_params: false"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true", "fsdp_activation_checkpointing: false"),
    ],
)
def test_an_option_that_would_change_weights_is_refused_with_what_to_do(variable, value, setting):
    """A config that says float32 and weights that were trained in bf16 are a false record."""
    environment = PLAIN | (FSDP if variable.startswith("FSDP") else {}) | {variable: value}
    with pytest.raises(ValueError, match=value) as refused:
        refuse_options(trainings("float32"), environment)
    assert variable in str(refused.value)
    assert setting in str(refused.value)


@pytest.mark.parametrize(
    "more",
    [
        {},
        FSDP,
        {"ACCELERATE_TORCH_DEVICE": "cpu"},
        {"ACCELERATE_DEBUG_MODE": "true", "ACCELERATE_CPU_AFFINITY": "1", "ACCELERATE_LOG_LEVEL": "INFO"},
        {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1"},
        {"FSDP_OFFLOAD_PARAMS": "true"},  # without FSDP
    ],
)
def test_what_changes_no_weights_is_obeyed(more):
    """Device, processes and shards are the launcher's to choose."""
    refuse_options(trainings("float32"), PLAIN | more)


def test_a_precision_that_the_settings_ask_for_is_no_contradiction():
    """Many have mixed_precision: bf16 in their file; under settings that say bf16 nothing changes."""
    environment = PLAIN | {"ACCELERATE_MIXED_PRECISION": "bf16"}
    refuse_options(trainings("bf16"), environment)
    with pytest.raises(ValueError, match="computes in float32"):
        refuse_options((), environment)
    with pytest.raises(ValueError, match="say bf16 and float32"):
        refuse_options((trainings("bf16")[0], trainings("float32")[1]), environment)


def test_processes_that_are_not_those_asked_for_are_refused():
    """Two trainings that each run alone write the same files; one of two takes twice as long."""
    accelerator = Accelerator(cpu=True)
    check_spread(accelerator, {})
    with pytest.raises(ValueError, match="started 2 processes but each runs alone"):
        check_spread(accelerator, {"WORLD_SIZE": "2"})
    with pytest.raises(ValueError, match=r"use_fsdp .* run as NO"):
        check_spread(accelerator, FSDP)
    tpu = SimpleNamespace(num_processes=1, distributed_type=DistributedType.XLA)
    with pytest.raises(ValueError, match="distributed_type is XLA"):
        check_spread(tpu, {})


def test_a_run_records_what_its_launcher_decided():
    """Device, processes, threads and the way the model is shared belong to the circumstances."""
    found = circumstances(Accelerator(cpu=True))
    assert {"processes", "threads", "torch", "device", "spread"} == set(found)
    assert found["spread"] == "NO"


def test_matrices_in_shards_are_refused_where_muon_needs_them_whole():
    """A shard's orthogonal update is not a part of the matrix's."""
    muon = GeneratorTraining(optimizer="muon")
    with pytest.raises(ValueError, match=r"use_fsdp .* optimizer=muon"):
        refuse_options([muon], PLAIN | FSDP)
    refuse_options([muon], PLAIN)
    refuse_options([GeneratorTraining()], PLAIN | FSDP)


def test_a_torch_that_was_built_for_gpus_computes_on_the_processor_where_there_is_none(monkeypatch):
    """Such a torch names cuda as its current accelerator all the same, and `precision=auto` asks for it."""
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *_: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert device_asked_for({}) == "cpu"
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert device_asked_for({}) == "cuda"
    assert device_asked_for({"ACCELERATE_USE_CPU": "true"}) == "cpu"


def test_the_device_asked_for_is_the_one_that_accelerate_takes():
    assert device_asked_for() == Accelerator().device.type
