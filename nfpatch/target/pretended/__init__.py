"""Pretends GPUs and DBFS; with this folder on PYTHONPATH, in whole processes."""
