"""Our scripts keep the memory that tensors have freed, unless the user has said how malloc works."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Takes, writes and frees 64 MB a few times, as a program of this name; prints the last time's page faults.
CODE = """
import ctypes, resource, sys
sys.argv = [sys.argv[1]]
import var_pe
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
for turn in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    piece = libc.malloc(64 << 20)
    ctypes.memset(piece, 1, 64 << 20)
    libc.free(piece)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(program: str, **environment: str) -> int:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    line = [sys.executable, "-c", CODE, program]
    done = subprocess.run(line, env=kept | environment, cwd=ROOT, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_a_script_keeps_what_was_freed_and_another_program_does_not():
    """Where huge pages serve the heap there are fewer faults in all: counts are held against each other."""
    script = str(ROOT / "scripts" / "train.py")
    others = faults("/somewhere/else/train.py")
    assert faults(script) < others / 10
    assert faults(script, MALLOC_MMAP_THRESHOLD_="1048576") > others / 2
    assert faults(script, GLIBC_TUNABLES="glibc.malloc.mmap_threshold=1048576") > others / 2
