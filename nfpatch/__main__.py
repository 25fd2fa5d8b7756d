"""The `nfpatch` command, and `python -m nfpatch`.

Quick commands must take at most twice the time of `import click` (`benchmarks/`). So this module disables the garbage
collector and skips the interpreter's teardown.
"""

import gc

gc.disable()

import os  # noqa: E402
import sys  # noqa: E402
from contextlib import suppress  # noqa: E402
from typing import NoReturn  # noqa: E402

from nfpatch.cli import main  # noqa: E402


def run() -> NoReturn:
    """Run the command line and end the process with its exit code."""
    code: object = 0
    try:
        main(prog_name="nfpatch")
    except SystemExit as end:
        code = end.code
    if not isinstance(code, (int, type(None))):
        sys.exit(str(code))
    with suppress(OSError):  # the pipe may be closed
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    run()
