"""Files of weights are read by what is in them."""

import pytest
import torch
from safetensors.torch import save_file

from var_pe.models.foreign_weights import read_state


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth", "weights"])
@pytest.mark.parametrize(
    "write",
    [
        save_file,
        torch.save,
        lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    ],
)
def test_a_file_is_read_under_any_name(write, name, tmp_path):
    """Downloads are renamed, and pages offer one format under the ending of the other."""
    write({"a": torch.arange(6.0).reshape(2, 3)}, tmp_path / name)
    (found,) = read_state(tmp_path / name).items()
    assert found[0] == "a"
    assert torch.equal(found[1], torch.arange(6.0).reshape(2, 3))


@pytest.mark.parametrize(
    ("write", "name", "why"),
    [
        (save_file, "weights.pth", "not a safetensors file, or a damaged one"),
        (torch.save, "weights.safetensors", "not written by torch.save, or is damaged"),
    ],
)
def test_a_damaged_file_is_named_by_what_it_was(write, name, why, tmp_path):
    write({"a": torch.zeros(100)}, tmp_path / name)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-50])
    with pytest.raises(ValueError, match=why):
        read_state(tmp_path / name)
