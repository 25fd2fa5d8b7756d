"""What runs in the target interpreter, the one whose neuralforecast is patched.

nfpatch cannot be imported there, and that interpreter may be Python 3.7. So this package imports nothing of nfpatch, at
the top of its modules only itself and the standard library, and torch, Lightning, pandas and neuralforecast where they
are used. It is started by the path of `ENTRY`, with the name of a program and its arguments:

    train SPEC    trains the cases of a proof, as one process of a launch
    migrate       judges saved models and writes them again, driven over the standard streams

`events.py` has the records of the first, and the docstring of the second names its messages. There the package is
called `nfpatch_target`, so that other modules may have the names of its modules.
"""

from __future__ import annotations

from pathlib import Path

ENTRY = Path(__file__).with_name("__main__.py")
# First on PYTHONPATH, it makes the processes of a user's script those of a rehearsal
REHEARSAL = Path(__file__).with_name("rehearsal")
