"""Python imports this module at its start. It installs the hooks of a rehearsal and imports the user's sitecustomize.

If that fails, the script runs unobserved, and the report says that no process has recorded anything.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def join_rehearsal() -> None:
    """Makes the package importable, and installs its hooks."""
    entry = os.path.join(os.path.dirname(HERE), "__main__.py")
    spec = importlib.util.spec_from_file_location("nfpatch_target_entry", entry)
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    importlib.import_module("nfpatch_target.rehearsal.instrumentation").install_hooks()


def import_hidden() -> None:
    """Imports the `sitecustomize` that this module hides, if any."""
    own = sys.modules.pop(__name__)
    try:
        importlib.import_module(__name__)
    except ImportError as error:
        if error.name != __name__:
            raise
    finally:
        sys.modules.setdefault(__name__, own)


sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != HERE]
if "NFPATCH_REHEARSAL" in os.environ:
    join_rehearsal()
if __name__ == "sitecustomize":
    import_hidden()
