"""A user's own script, rehearsed on several CPU processes: shortened, watched, and held against one process.

Nothing of the script is run otherwise than without nfpatch: `python SCRIPT` it is. The folder of this package is on
PYTHONPATH, so that each Python process that the script is, or makes, imports `sitecustomize.py`. That takes the folder
off `sys.path` again and waits for the imports of Lightning, neuralforecast and ray. VARIABLE names the specification, a
JSON file:

    {"out": folder for events and stacks, "devices": processes, "max_steps": of a training, null for as many as the
    script says, "trials": of a search, likewise, "launcher": "script" | "torchrun"}

Each process writes JSON lines into `events-PID.jsonl`, as `noting.py` tells.
"""

from __future__ import annotations

VARIABLE = "NFPATCH_REHEARSAL"
