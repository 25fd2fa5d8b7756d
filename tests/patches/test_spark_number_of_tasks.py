"""Spark starts a process for each device of each machine."""

from __future__ import annotations

import pytest
from snippets import patched

from nfpatch.codemod import CodemodRefused

BEFORE = """
class BaseModel(pl.LightningModule):
    def _fit(self, dataset, batch_size, **kwargs):
        if is_local:
            pass
        else:
            if local_mode:
                pass
            else:
                num_tasks = distributed_config.devices * distributed_config.devices
"""

AFTER = """
class BaseModel(pl.LightningModule):
    def _fit(self, dataset, batch_size, **kwargs):
        if is_local:
            pass
        else:
            if local_mode:
                pass
            else:
                num_tasks = distributed_config.num_nodes * distributed_config.devices
"""


def test_the_machines_are_counted() -> None:
    assert patched("spark-number-of-tasks", "1.7.2", BEFORE) == AFTER


def test_a_source_that_counts_them_is_refused() -> None:
    twin = BEFORE.replace("distributed_config.devices *", "distributed_config.num_nodes *")
    with pytest.raises(CodemodRefused):
        patched("spark-number-of-tasks", "1.7.2", twin)
