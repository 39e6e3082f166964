"""benchmarks/sampling.py measures what it says, and compares with a checkout that has VAR's interface."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TINY = ["--depth", "1", "--levels", "1", "2", "--codes", "16", "--channels", "32", "--batch", "2"]
TINY += ["--rounds", "2", "--device", "cpu"]

# A stand-in with the public code's names and arguments, and the numbers of tests/interop/var/reference.py.
MODULES = '''
import torch
from torch import nn

def module_of(shapes):
    """Nested modules whose state has these keys."""
    root = nn.Module()
    for key, shape in shapes.items():
        *path, name = key.split(".")
        at = root
        for part in path:
            if not hasattr(at, part):
                at.add_module(part, nn.Module())
            at = getattr(at, part)
        if key == "quantize.embedding.weight":
            at.__class__ = Embedding
        whole = key == "lvl_1L"
        at.register_buffer(name, torch.zeros(shape, dtype=torch.int64 if whole else torch.float32))
    return root

class Embedding(nn.Module):
    def forward(self, idx):
        return self.weight[idx]

class Held(nn.Module):
    def __init__(self, shapes):
        super().__init__()
        for name, child in module_of(shapes).named_children():
            self.add_module(name, child)
        for name, value in module_of({k: v for k, v in shapes.items() if "." not in k}).named_buffers():
            self.register_parameter(name, nn.Parameter(value, requires_grad=False)) if (
                value.is_floating_point()
            ) else self.register_buffer(name, value)
'''
VQVAE = """
from tests.interop.var.reference import vqvae_shapes
from models.held import Held

class VQVAE(Held):
    def __init__(self, vocab_size, z_channels, ch, share_quant_resi, v_patch_nums, test_mode):
        super().__init__(vqvae_shapes(
            levels=len(v_patch_nums), codes=vocab_size, latent=z_channels, blocks=2,
            widths=[ch * m for m in (1, 1, 2, 2, 4)], phis=[f"qresi_ls.{i}" for i in range(share_quant_resi)],
        ))
"""
VAR = """
import torch
from tests.interop.var.reference import decoded, greedy, var_shapes
from models.held import Held

class VAR(Held):
    def __init__(self, vae_local, num_classes, depth, embed_dim, num_heads, mlp_ratio, shared_aln,
                 attn_l2_norm, patch_nums):
        grids = [(n, n) for n in patch_nums]
        vae = vae_local.state_dict()["quantize.embedding.weight"]
        super().__init__(var_shapes(
            tokens=sum(h * w for h, w in grids), levels=len(grids), codes=len(vae), latent=vae.shape[1],
            dim=embed_dim, depth=depth, heads=num_heads, classes=num_classes, shared=shared_aln,
        ))
        self.vae_proxy, self.grids = (vae_local,), grids

    def autoregressive_infer_cfg(self, B, label_B, g_seed=None, cfg=1.5, top_k=0, top_p=0.0):
        vae = self.vae_proxy[0]
        tokens = greedy(vae.state_dict(), self.state_dict(), label_B, self.grids, cfg) + OFF
        tokens = tokens % len(vae.quantize.embedding.weight)
        for start, stop in ((0, 1), (1, 5)):
            vae.quantize.embedding(tokens[:, start:stop])
        return torch.zeros(B, 3, 32, 32)
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder that looks like the public repository; `wrong` makes its tokens other ones."""

    def make(wrong: bool) -> Path:
        folder = tmp_path / "VAR"
        (folder / "models").mkdir(parents=True)
        (folder / "dist.py").write_text("")
        (folder / "models" / "__init__.py").write_text("")
        (folder / "models" / "held.py").write_text(MODULES)
        (folder / "models" / "vqvae.py").write_text(VQVAE)
        (folder / "models" / "var.py").write_text(f"OFF = {int(wrong)}\n{VAR}")
        return folder

    for name in [name for name in sys.modules if name.split(".")[0] == "models"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [str(ROOT / "tests"), *sys.path])
    yield make
    for name in [name for name in sys.modules if name.split(".")[0] == "models"]:
        del sys.modules[name]


@pytest.fixture
def benchmark(monkeypatch, capsys):
    """Runs it: its exit status and what it said."""

    def called(*words: object) -> tuple[object, str]:
        monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
        from sampling import main

        monkeypatch.setattr(sys, "argv", ["sampling.py", *map(str, words)])
        status: object = 0
        try:
            main()
        except SystemExit as stopped:
            status = stopped.code
        said = capsys.readouterr()
        return status, said.out + said.err

    return called


def test_every_round_of_both_types_is_reported(benchmark, tmp_path):
    words = ["--precision", "float32", "bf16", "--output", tmp_path / "found.json"]
    status, said = benchmark(*TINY, *words)
    assert status == 0
    assert "batch 2, guidance 1.5" in said
    found = json.loads((tmp_path / "found.json").read_text())
    assert {name: len(rates) for name, rates in found["images_per_second"].items()} == {
        "var_pe float32": 2,
        "var_pe bf16": 2,
    }
    assert all(rate > 0 for rates in found["images_per_second"].values() for rate in rates)
    assert set(found["latency"]) == set(found["images_per_second"])
    assert "one image alone" in said


@pytest.mark.parametrize(("has_bf16", "others"), [(False, "bf16"), (True, "float32")])
def test_only_what_a_training_would_compute_in_is_timed(benchmark, monkeypatch, has_bf16, others):
    """Without instructions for bfloat16 a drawing in it takes fifty times as long: nobody waits for that."""
    monkeypatch.setattr("var_pe.training.precision.has_bf16", lambda device: has_bf16)
    status, said = benchmark(*TINY)
    assert (status, f"var_pe {others}" in said) == (0, False)
    assert "one image alone" in said


def test_the_reference_takes_turns_and_must_draw_the_same_greedy_tokens(benchmark, checkout):
    words = ["--precision", "float32", "bf16", "--reference", checkout(wrong=False)]
    status, said = benchmark(*TINY, *words)
    assert status == 0, said
    assert "greedy tokens: 10 of 10 are equal" in said
    assert "VAR float32" in said
    assert "bf16: var_pe is" in said


def test_other_greedy_tokens_are_a_failure(benchmark, checkout):
    status, said = benchmark(*TINY, "--reference", checkout(wrong=True))
    assert "greedy tokens: 0 of 10 are equal" in said
    assert status == "the reference draws other tokens with the same weights"


def test_what_is_no_checkout_or_no_setting_is_one_sentence(benchmark, tmp_path):
    status, said = benchmark(*TINY, "--reference", tmp_path)
    assert (status, "Traceback" in said) == (2, False)
    assert said.endswith(f"error: --reference {tmp_path} is not a checkout of the public VAR repository\n")
    for words, sentence in (
        (["--depth", 0], "--depth must be int, at least 1, got 0"),
        (["--depth", 1, "--channels", 0], "--channels must be int, at least 1, got 0"),
        (["--depth", 1, "--device", "banana"], "--device banana cannot be used here: "),
        (["--depth", 1, "--output", tmp_path], "is a folder; name a file"),
    ):
        status, said = benchmark(*words)
        assert (status, "Traceback" in said) == (2, False)
        assert sentence in said.splitlines()[-1]
