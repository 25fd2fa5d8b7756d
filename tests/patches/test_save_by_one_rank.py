"""All ranks save together, and no file is seen half written."""

from __future__ import annotations

import pytest
from snippets import patched

from nfpatch.codemod import CodemodRefused

AUTO = "neuralforecast/common/_base_auto.py"
CORE = "neuralforecast/core.py"
HINT = "neuralforecast/models/hint.py"
MODEL = "neuralforecast/common/_base_model.py"
WINDOWS = "neuralforecast/common/_base_windows.py"

CORE_BEFORE = """
import torch


class NeuralForecast:
    def save(
        self,
        path: str,
        model_index: Optional[List] = None,
        save_dataset: bool = True,
        overwrite: bool = False,
    ):
        try:
            import torch.distributed as dist

            if dist.is_initialized() and dist.get_rank() != 0:
                return
        except (ImportError, RuntimeError):
            pass
        if path[-1] == "/":
            path = path[:-1]
"""

CORE_AFTER = """
from neuralforecast._nfpatch import saving
import torch


class NeuralForecast:
    def save(
        self,
        path: str,
        model_index: Optional[List] = None,
        save_dataset: bool = True,
        overwrite: bool = False,
    ):
        if saving.is_left_to_rank_0():
            return
        if path[-1] == "/":
            path = path[:-1]
        if saving.save_from_all_ranks(self, path, model_index, save_dataset, overwrite):
            return
"""

MODEL_BEFORE = """
import torch


class BaseModel(pl.LightningModule):
    def save(self, path):
        with fsspec.open(path, "wb") as f:
            f.write(self.serialize())
"""

MODEL_AFTER = """
from neuralforecast._nfpatch import saving
import torch


class BaseModel(pl.LightningModule):
    def save(self, path):
        with saving.open_atomic(path) as f:
            f.write(self.serialize())
"""

CORE_BEFORE_1_6_4 = """
import torch


class NeuralForecast:
    def save(
        self,
        path: str,
        model_index: Optional[List] = None,
        save_dataset: bool = True,
        overwrite: bool = False,
    ):
        if path[-1] == "/":
            path = path[:-1]
"""

CORE_AFTER_1_6_4 = """
from neuralforecast._nfpatch import saving
import torch


class NeuralForecast:
    def save(
        self,
        path: str,
        model_index: Optional[List] = None,
        save_dataset: bool = True,
        overwrite: bool = False,
    ):
        if path[-1] == "/":
            path = path[:-1]
        if saving.save_local_files(self, path, model_index, save_dataset, overwrite):
            return
"""

WINDOWS_BEFORE_1_6_4 = """
import torch


class BaseWindows(pl.LightningModule):
    def save(self, path):
        self.trainer.save_checkpoint(path)
"""

WINDOWS_AFTER_1_6_4 = """
from neuralforecast._nfpatch import saving
import torch


class BaseWindows(pl.LightningModule):
    def save(self, path):
        saving.save_checkpoint(self, path)
"""

AUTO_BEFORE_1_6_4 = """
class BaseAuto(pl.LightningModule):
    def save(self, path):
        self.model.trainer.save_checkpoint(path)
"""

AUTO_AFTER_1_6_4 = """
class BaseAuto(pl.LightningModule):
    def save(self, path):
        self.model.save(path)
"""

HINT_BEFORE_1_6_4 = """
class HINT:
    def save(self, path):
        self.model.trainer.save_checkpoint(path)
"""

HINT_AFTER_1_6_4 = """
class HINT:
    def save(self, path):
        self.model.save(path)
"""


def test_the_ranks_save_together() -> None:
    assert patched("save-by-one-rank", "3.3.0", CORE_BEFORE, CORE) == CORE_AFTER
    assert patched("save-by-one-rank", "3.3.0", MODEL_BEFORE, MODEL) == MODEL_AFTER


def test_releases_before_1_7_write_checkpoints_of_lightning() -> None:
    assert patched("save-by-one-rank", "1.6.4", CORE_BEFORE_1_6_4, CORE) == CORE_AFTER_1_6_4
    assert patched("save-by-one-rank", "1.6.4", WINDOWS_BEFORE_1_6_4, WINDOWS) == WINDOWS_AFTER_1_6_4
    assert patched("save-by-one-rank", "1.6.4", AUTO_BEFORE_1_6_4, AUTO) == AUTO_AFTER_1_6_4
    assert patched("save-by-one-rank", "1.6.4", HINT_BEFORE_1_6_4, HINT) == HINT_AFTER_1_6_4


def test_a_save_that_another_rank_does_is_refused() -> None:
    twin = CORE_BEFORE.replace("get_rank() != 0", "get_rank() != 1")
    with pytest.raises(CodemodRefused):
        patched("save-by-one-rank", "3.3.0", twin, CORE)
