"""The rehearsal: a shortened run of a user's script in several CPU processes, compared with a single-process reference.

`run.py` starts and ends it, `records.py` reads what the ranks record, `verdict.py` turns that into facts, which the
checks of the engine judge, and `report.py` prints the report. `target/rehearsal/` runs in the processes.
"""
