"""One module per command; `nfpatch.cli` imports the one that is run."""
