"""Starts a program of this package in the target interpreter: `python PATH/TO/__main__.py PROGRAM [ARGUMENT...]`.

Python puts the folder of a script first on sys.path, where its modules would hide a `models` or `data` of the target:
the folder is removed again. Instead the package has a name of its own, PACKAGE, which needs no path. Its functions and
classes can be pickled by that name: a process that multiprocessing spawns runs this file too, as `__mp_main__`.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys

PACKAGE = "nfpatch_target"
PROGRAMS = ("train", "migrate")
HERE = os.path.dirname(os.path.abspath(__file__))


def make_importable() -> None:
    """Makes the package importable in this process by its own name."""
    spec = importlib.util.spec_from_file_location(
        PACKAGE, os.path.join(HERE, "__init__.py"), submodule_search_locations=[HERE]
    )
    assert spec is not None
    assert spec.loader is not None
    sys.modules[PACKAGE] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[PACKAGE])


if PACKAGE not in sys.modules:
    make_importable()

if __name__ == "__main__":
    # Python follows links to the folder of a script.
    sys.path[:] = [entry for entry in sys.path if entry not in ("", HERE, os.path.realpath(HERE))]
    if sys.argv[1:2] and sys.argv[1] in PROGRAMS:
        importlib.import_module(f"{PACKAGE}.{sys.argv[1]}").main(*sys.argv[2:])
    else:
        sys.exit("usage: __main__.py " + " | ".join(PROGRAMS))
