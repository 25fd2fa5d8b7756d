"""Pretended GPUs, for what can be shown without any. Its folder on PYTHONPATH gives them to whole processes."""
