"""Next-scale image generation in which the position encoding is one line of the config.

Letters in names give shapes, capitals for the whole pyramid, lower case for one level:
`B` images, `L` tokens of the pyramid, `l` tokens of one level, `C` model width, `H` heads, `D` head width,
`V` codebook size, `Z` latent channels, `h w` a grid's sides, `N` layers.

Sets GOMP_SPINCOUNT unless it or OMP_WAIT_POLICY is set: how often a thread of GNU's OpenMP looks whether
there is work before it lets go of its core. By itself it looks 300,000 times; where other programs are busy,
it takes cores from the very threads that it waits for. The library reads the variable when torch loads it, so
scripts import this package first. No number that is computed depends on it.

A script of ours that is stopped while it still imports, which takes seconds, ends with one line. Nothing is
changed for other programs.
"""

import os
import signal
import sys
from pathlib import Path

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def end_at_once(signum: int, frame: object) -> None:
    """What Ctrl-C does until a script's `main` begins (`stages/session.py`): ends it without a traceback."""
    os.write(2, b"stopped\n")
    os._exit(128 + signum)


_started = Path(sys.argv[0] if sys.argv else "").resolve()
_ours = _started.parent == Path(__file__).resolve().parents[1] / "scripts"
if _ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, end_at_once)
