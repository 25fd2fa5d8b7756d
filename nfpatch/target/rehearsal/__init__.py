"""Runs a user's script on several CPU processes, shortened, and compares it with a single-process reference.

The script itself is unchanged. The folder of this package is on PYTHONPATH, so each Python process of the script
imports `sitecustomize.py`, which removes the folder from `sys.path` and hooks into the imports of Lightning,
neuralforecast and ray. VARIABLE names the specification, a `RehearsalSpec` of `events.py` as JSON. Each process writes
its events to `events-PID.jsonl`.
"""

from __future__ import annotations

VARIABLE = "NFPATCH_REHEARSAL"
