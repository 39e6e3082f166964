"""Whether this machine has what torch compiles with."""

import os
import shutil
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path


def lacking_compiler(device: str) -> str:
    """What torch needs to compile for a device and is missing here, in words; empty if nothing is missing."""
    if device == "cuda" and find_spec("triton") is None:
        return "the package triton"

    # Triton's kernels are started by small C programs, those of processors are C++.
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        return f"a C++ compiler ({compiler} is not here; CXX names another)"
    headers = Path(sysconfig.get_path("include"))
    if not (headers / "Python.h").exists():
        return f"Python's headers ({headers}/Python.h is not here; Debian calls them python3-dev)"
    return ""
