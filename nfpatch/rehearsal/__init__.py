"""The rehearsal: a user's own script on several CPU processes, shortened, and compared with one process.

`run.py` starts and ends it, `records.py` reads what the ranks have recorded, `verdict.py` makes facts of it, which the
checks of the engine judge, and `report.py` reports. What runs in the processes is `target/rehearsal/`.
"""
