"""A user's own script, rehearsed on several CPU processes: shortened, watched, and held against one process.

The script is run unmodified, as `python SCRIPT` would. The folder of this package is on PYTHONPATH, so that each Python
process that the script is, or makes, imports `sitecustomize.py`. That takes the folder off `sys.path` again and waits
for the imports of Lightning, neuralforecast and ray. VARIABLE names the specification, a
`RehearsalSpec` of `events.py` as JSON. Each process writes its events into `events-PID.jsonl`.
"""

from __future__ import annotations

VARIABLE = "NFPATCH_REHEARSAL"
