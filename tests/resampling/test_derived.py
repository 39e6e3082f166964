"""What is remembered of a weight: made once, few, and never of a weight that has changed since."""

from collections.abc import Callable

import pytest
import torch

from var_pe.resampling.derived import DerivedCache


class Counted:
    def __init__(self, weight: torch.Tensor) -> None:
        self.weight, self.remembered, self.made = weight, DerivedCache(), 0

    def __call__(self, key: int = 0) -> torch.Tensor:
        def make() -> torch.Tensor:
            self.made += 1
            return self.weight * (key + 1)

        return self.remembered(self.weight, key, make)


def frozen(*shape: int) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.ones(*shape), requires_grad=False)


def test_a_result_is_made_once_and_few_are_kept():
    counted = Counted(frozen(3))
    for key in [0, 1, 0, 1, 0]:
        assert torch.equal(counted(key), torch.full((3,), key + 1.0))
    assert counted.made == 2
    for key in range(20):
        counted(key)
    assert len(counted.remembered) == 8
    made = counted.made
    counted(12)
    assert counted.made == made  # the last eight are there
    counted(11)
    assert counted.made == made + 1


def test_what_was_asked_for_last_is_kept_longest():
    """A batch of a common size among rare ones must not be made anew each time."""
    counted = Counted(frozen(3))
    for key in range(8):
        counted(key)
    counted(0), counted(8)  # 0 was asked for after 1
    assert list(counted.remembered.results) == [2, 3, 4, 5, 6, 7, 0, 8]


def write_in_place(counted: Counted) -> None:
    counted.weight.mul_(3)


def replace_it(counted: Counted) -> None:
    counted.weight = torch.nn.Parameter(torch.full((3,), 3.0), requires_grad=False)


def swap_its_data(counted: Counted) -> None:
    counted.weight.data = torch.full((3,), 3.0)


def change_its_type(counted: Counted) -> None:
    counted.weight.data = torch.full((3,), 3.0, dtype=torch.float64)


def step_an_optimizer(counted: Counted) -> None:
    counted.weight.requires_grad_()
    counted.weight.grad = torch.full((3,), -2.0)
    torch.optim.SGD([counted.weight], lr=1.0).step()


CHANGES: list[Callable[[Counted], None]] = [
    write_in_place,
    replace_it,
    swap_its_data,
    change_its_type,
    step_an_optimizer,
]


@torch.no_grad()
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_weight_has_no_old_results(change):
    counted = Counted(frozen(3))
    counted(0), counted(1)
    change(counted)
    result = counted(0)
    assert result.dtype == counted.weight.dtype
    assert torch.equal(result, torch.full_like(result, 3.0))
    assert len(counted.remembered) == 1


READINGS: list[tuple[str, Callable[[torch.Tensor], torch.Tensor]]] = [
    ("type", lambda weight: weight.view(torch.bfloat16)),
    ("order", lambda weight: weight.t()),
    ("shape", lambda weight: weight.view(1, 4)),
    ("length", lambda weight: weight[:1]),
]


@pytest.mark.parametrize("read", [read for _, read in READINGS], ids=[what for what, _ in READINGS])
@torch.no_grad()
def test_the_same_memory_read_in_another_way_is_another_weight(read):
    counted = Counted(torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float16))
    counted()
    counted.weight = read(counted.weight)
    result = counted()
    assert (counted.made, result.dtype) == (2, counted.weight.dtype)
    assert torch.equal(result, counted.weight)


@torch.no_grad()
def test_a_weight_on_another_device_has_no_results_of_the_old_one():
    counted = Counted(frozen(3))
    counted(0)
    counted.weight = counted.weight.to("meta")  # the other device that every machine has
    assert counted(0).device.type == "meta"
    assert len(counted.remembered) == 1


def test_a_freed_weight_s_memory_is_not_taken_for_it():
    """A new weight that lies where the old one lay is another weight."""
    counted = Counted(frozen(64))
    for number in range(50):
        counted.weight = torch.nn.Parameter(torch.full((64,), float(number)), requires_grad=False)
        assert counted()[0] == number


def test_nothing_is_kept_while_the_weight_is_trained():
    counted = Counted(torch.nn.Parameter(torch.ones(3)))
    with torch.no_grad():
        counted()
        counted()
    assert (counted.made, len(counted.remembered)) == (1, 1)
    counted().sum().backward()
    assert counted.weight.grad.any()
    assert (counted.made, len(counted.remembered)) == (2, 0)


def test_results_of_inference_mode_serve_training():
    """What is kept must not be an inference tensor, which autograd refuses."""
    counted, tail = Counted(frozen(3)), torch.ones(3, requires_grad=True)
    with torch.inference_mode():
        counted()
    (counted() * tail).sum().backward()
    assert counted.made == 1
    with torch.inference_mode():
        built_inside = Counted(frozen(3))
        built_inside()
        built_inside.weight.mul_(3)
        assert torch.equal(built_inside(), torch.full((3,), 3.0))
