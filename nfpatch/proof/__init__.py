"""The proof: real multi-process DDP fits of original, installed and previewed source.

`runner` launches and judges what `target/` trains in the target interpreter, `overlay` builds a source tree with chosen
files.
"""
