"""The proof: real multi-process DDP fits of the released, the installed and the patched source.

`prove.py` chooses the fits, `runner.py` launches and follows them, `verdict.py` compares what the checks of the engine
find with what a case expects, and `report.py` prints the result.
"""
