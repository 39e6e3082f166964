"""Tests, in the rooms of the package.

The cache of `datasets` is a folder of the session's own, named before anything imports the library, which
reads the variable once.
"""

import atexit
import os
import shutil
import tempfile

os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="var_pe_tests_")
atexit.register(shutil.rmtree, os.environ["HF_DATASETS_CACHE"], ignore_errors=True)
