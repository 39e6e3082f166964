"""Next-scale image generation in which the position encoding is one line of the config.

Letters in names give shapes, capitals for the whole pyramid, lower case for one level:
`B` images, `L` tokens of the pyramid, `l` tokens of one level, `C` model width, `H` heads, `D` head width,
`V` codebook size, `Z` latent channels, `h w` a grid's sides, `N` layers, `T` moments of a clip.

Sets GOMP_SPINCOUNT unless it or OMP_WAIT_POLICY is set: how often a thread of GNU's OpenMP looks whether
there is work before it lets go of its core. By itself it looks 300,000 times; where other programs are busy,
it takes cores from the very threads that it waits for. The library reads the variable when torch loads it, so
scripts import this package first. No number that is computed depends on it.

A script of ours keeps memory that tensors have freed (`keep_freed_memory`). One that is stopped while it
still imports, which takes seconds, ends with one line. It reads and writes names and texts as UTF-8 whatever
the locale, prints what its output cannot show as an escape, and runs without standard streams, too. Nothing
is changed for other programs.
"""

import ctypes
import io
import locale
import os
import signal
import sys
from pathlib import Path

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")


# Of glibc's mallopt: its malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """Lets glibc keep the memory of tensors for the next ones, unless the environment sets its malloc.

    By itself it returns every piece above 32 MB to the system as soon as it is free, and takes another for
    the next tensor, each page of which the system clears and maps anew: a tenth of some steps
    (docs/speed.md). What was once needed is held until the next training (`processes.py: reset_peak_memory`)
    or the end. Memory that other threads than the main one take is not reached, nor are other C libraries,
    which have no `mallopt`.
    """
    is_set = "GLIBC_TUNABLES" in os.environ or any(name.startswith("MALLOC_") for name in os.environ)
    if sys.platform != "linux" or is_set:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)


def end_at_once(signum: int, frame: object) -> None:
    """What Ctrl-C does until a script's `main` begins (`stages/session.py`): ends it without a traceback."""
    os.write(2, b"stopped\n")
    os._exit(128 + signum)


def begin_in_utf_8() -> None:
    """Starts this program anew in Python's UTF-8 mode (PEP 540) if the locale has another encoding.

    File names would be read as others otherwise, and classes with them. The mode cannot be set later.
    """
    is_utf_8 = locale.getencoding().lower().replace("-", "") == "utf8" or sys.flags.utf8_mode
    if not is_utf_8 and os.name == "posix" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, sys.orig_argv)


def have_standard_streams() -> None:
    """Puts the null device in place of standard streams that were closed (`>&-`), and lets no text fail.

    The next file that is opened would have the number of a closed stream, and other libraries' messages would
    be written into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            try:
                os.fstat(number)
            except OSError:
                os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
            setattr(sys, name, os.fdopen(number, "w" if number else "r"))

        stream = getattr(sys, name)
        if number and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


_started = Path(sys.argv[0] if sys.argv else "").resolve()
_ours = _started.parent == Path(__file__).resolve().parents[1] / "scripts"
if _ours:
    begin_in_utf_8()
    keep_freed_memory()
    have_standard_streams()
if _ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, end_at_once)
