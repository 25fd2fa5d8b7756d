"""One engine for `verify`, `rehearse` and `audit`: a script is run, processes record events, checks judge them.

    script    what is run: a user's file, or the catalog's cases, which `target/train.py` runs as a user's script
    run       N processes: `launch` (how they start and end), `probe` (what the interpreter has), `sources` (which
              neuralforecast)
    events    typed records that the processes write: `target/events.py`, shared by both sides; `logs` reads them, and
              `records` has them by rank and call, of a script as of a case, and makes `facts` of them
    checks    pure functions from records to findings; `checks/` has one module per check and one registration
    report    findings as text, JSON, JUnit XML and HTML

`proof`, `rehearsal` and `audit` say what is run and what is expected.
"""
