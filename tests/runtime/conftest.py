"""Tests of the runtime modules. They require torch and Lightning; other interpreters collect none of them."""

from __future__ import annotations

import importlib.util

if importlib.util.find_spec("torch") is None or importlib.util.find_spec("pytorch_lightning") is None:
    collect_ignore_glob = ["test_*.py"]
