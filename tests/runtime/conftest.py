"""Tests of the runtime modules, run by an interpreter that has torch and Lightning; another one collects none."""

from __future__ import annotations

import importlib.util

if importlib.util.find_spec("torch") is None or importlib.util.find_spec("pytorch_lightning") is None:
    collect_ignore_glob = ["test_*.py"]
