"""The proof: real multi-process DDP fits of the released, the installed and the patched source.

`prove.py` says which fits there are, `runner.py` launches and follows them, and `verdict.py` compares what the checks
of the engine find with what a case expects.
"""
