"""The rehearsal: a shortened run of a user's script in several CPU processes, compared with a single-process reference.

`run.py` starts and ends it, `verdict.py` says what the findings of the engine's checks mean for the calls of a script,
and `report.py` prints the report. `target/rehearsal/` runs in the processes.
"""
