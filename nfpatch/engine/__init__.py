"""One engine for `verify`, `rehearse` and `audit`: a script is run, processes record events, checks judge them.

    script    what is run: a user's file, or the catalog's cases, which `target/train.py` runs as a user's script
    run       N processes: `launch` (how they start and end), `probe` (what the interpreter has), `sources` (which
              neuralforecast)
    events    typed records that the processes write: `target/events.py`, shared by both sides; `logs` reads them
    facts     the events of a call of a script, or of a case, by rank
    checks    pure functions from facts to findings; `checks/` has one module per check and one registration
    report    findings as text, JSON, JUnit XML and HTML

`proof`, `rehearsal` and `audit` say what is run and what is expected.
"""
