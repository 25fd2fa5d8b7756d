"""The rehearsal: a shortened run of a user's script in several CPU processes, compared with a single-process reference.

`run.py` starts and ends it, `records.py` reads what the processes record, `divergence.py` finds the line after which
their paths differ, `verdict.py` turns the findings of the checks into a report, and `report.py` prints that.
`target/rehearsal/` runs in the processes.
"""
