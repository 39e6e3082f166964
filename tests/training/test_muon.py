"""Muon: orthogonal updates inside blocks, AdamW elsewhere, and no update at all where a number was bad."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from var_pe.training.groups import parameter_groups
from var_pe.training.muon import GuardedMuon, orthogonal
from var_pe.training.run import checkpoint_bytes


def model():
    torch.manual_seed(0)
    inside = nn.ModuleDict(
        {
            "wide": nn.Linear(12, 6),
            "second": nn.Linear(12, 6),
            "tall": nn.Linear(6, 12),
            "conv": nn.Conv2d(3, 8, 3),
        }
    )
    return nn.Sequential(OrderedDict(blocks=inside, head=nn.Linear(6, 2)))


def optimizer_of(network, found_inf=0.0, **rates):
    groups = parameter_groups(network, 0.1, matrices=True)
    optimizer = GuardedMuon(groups, lr=0.01, betas=(0.9, 0.95), fused=True)
    optimizer.found_inf = torch.tensor(found_inf)
    return optimizer


def steps(network, optimizer, number=4):
    generator = torch.Generator().manual_seed(1)
    for _ in range(number):
        for parameter in network.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
        optimizer.zero_grad()


def test_singular_vectors_stay_and_values_come_near_one():
    """That is what makes all directions of a matrix learn equally fast."""
    matrix = torch.randn(10, 24, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    for given in (matrix, matrix.T, 1e-4 * matrix):
        values = torch.linalg.svdvals(orthogonal(given[None])[0])
        assert values.min() > 0.6
        assert values.max() < 1.3
    turned = left.T @ orthogonal(matrix[None])[0] @ right.T
    assert (turned - turned.diagonal().diag()).abs().max() < 0.05


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon to compare with")
def test_matrices_in_blocks_move_as_under_torchs_muon():
    """The published rule, with the size that lets it share AdamW's learning rate."""
    ours, theirs = model(), model()
    steps(ours, optimizer_of(ours))
    matrices = [p for name, p in theirs.named_parameters() if "blocks" in name and p.dim() == 2]
    reference = torch.optim.Muon(matrices, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    steps(theirs, reference)
    start = model()
    for name in ("wide", "second", "tall"):
        first = start.blocks[name].weight
        torch.testing.assert_close(
            ours.blocks[name].weight - first, theirs.blocks[name].weight - first, rtol=0.05, atol=1e-3
        )


def test_all_else_is_adamws():
    """Embeddings, heads, biases and norms are no maps between hidden layers."""
    ours, theirs = model(), model()
    steps(ours, optimizer_of(ours))
    reference = torch.optim.AdamW(parameter_groups(theirs, 0.1), lr=0.01, betas=(0.9, 0.95))
    steps(theirs, reference)
    for name, parameter in ours.named_parameters():
        same = torch.allclose(parameter, theirs.get_parameter(name), atol=1e-6)
        assert same == (not (name.startswith("blocks") and parameter.dim() > 1)), name


def test_a_convolution_moves_as_the_matrix_of_its_filters():
    """Turning every filter's pixels alike must turn the update alike; a filter by itself would not do."""
    filters = torch.randn(8, 3, 3, 3, generator=torch.Generator().manual_seed(2))
    network = model()
    network.blocks["conv"].weight.data.zero_()
    network.blocks["conv"].weight.grad = filters.clone()
    optimizer_of(network).step()
    moved = network.blocks["conv"].weight.flatten(1)
    expected = -0.01 * 0.2 * 27**0.5 * orthogonal(filters.flatten(1)[None])[0]
    torch.testing.assert_close(moved.data, expected, rtol=0.02, atol=1e-4)


def test_nothing_moves_once_a_number_was_bad():
    """Broken weights must never exist, nor momentum that a resumed run would go on with."""
    network = model()
    optimizer = optimizer_of(network)
    steps(network, optimizer)
    weights = [parameter.clone() for parameter in network.parameters()]
    momenta = [state["momentum"].clone() for state in optimizer.state.values() if "momentum" in state]
    optimizer.found_inf.fill_(1.0)
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, torch.nan)
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(weights, network.parameters(), strict=True))
    kept = [state["momentum"] for state in optimizer.state.values() if "momentum" in state]
    assert all(torch.equal(a, b) for a, b in zip(momenta, kept, strict=True))


def test_a_checkpoint_is_said_to_be_as_large_as_what_is_kept():
    """One average of a matrix, two moments of all else."""
    network = model()
    optimizer = optimizer_of(network)
    steps(network, optimizer, 1)
    kept = [value for state in optimizer.state.values() for name, value in state.items() if name != "step"]
    weights = [2 * parameter.nbytes for parameter in network.parameters()]
    expected = sum(weights) + sum(value.nbytes for value in kept)
    assert checkpoint_bytes(network, optimizer, with_best=False) == expected
