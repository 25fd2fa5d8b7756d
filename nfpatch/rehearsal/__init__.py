"""The rehearsal: a user's own script on several CPU processes, shortened, and held against one process.

`run.py` starts and ends it, `heard.py` reads what the ranks have noted, `verdict.py` judges, `report.py` and
`exports.py` tell. What runs in the processes is `target/rehearsal/`.
"""
