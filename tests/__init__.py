"""Tests, in the rooms of the package.

The cache of `datasets` is a folder of the session's own, named before anything imports the library, which
reads the variable once. `var_pe` comes before torch, whose threads it makes wait politely. A shell starts
what runs in its background with SIGINT ignored, and so would be the programs that tests start.
"""

import atexit
import os
import shutil
import signal
import tempfile

import var_pe  # noqa: F401

os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="var_pe_tests_")
atexit.register(shutil.rmtree, os.environ["HF_DATASETS_CACHE"], ignore_errors=True)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
