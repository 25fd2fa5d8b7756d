"""Each rank draws windows of its own."""

from __future__ import annotations

import pytest
from snippets import patched

from nfpatch.codemod import CodemodRefused

RECURRENT = "neuralforecast/common/_base_recurrent.py"
WINDOWS = "neuralforecast/common/_base_windows.py"

BEFORE = """
import torch


class BaseModel(pl.LightningModule):
    def training_step(self, batch, batch_idx):
        n_windows = len(final_condition)
        if self.windows_batch_size is not None:
            if n_windows < self.windows_batch_size:
                w_idxs = torch.randint(
                    0,
                    n_windows,
                    size=(self.windows_batch_size,),
                    device=windows_temporal.device,
                )
            else:
                w_idxs = torch.randperm(n_windows, device=windows_temporal.device)[
                    : self.windows_batch_size
                ]
"""

AFTER = """
from neuralforecast._nfpatch import sampling
import torch


class BaseModel(pl.LightningModule):
    def training_step(self, batch, batch_idx):
        n_windows = len(final_condition)
        if self.windows_batch_size is not None:
            w_idxs = sampling.draw_on_device(self, n_windows, windows_temporal.device)
"""

BEFORE_3_1_2 = """
import torch


class BaseModel(pl.LightningModule):
    def _sample_windows(self, windows_temporal, static, **kwargs):
        if step == "train" and self.windows_batch_size is not None:
            n_windows = windows_temporal.shape[0]
            w_idxs = np.random.choice(
                n_windows,
                size=self.windows_batch_size,
                replace=(n_windows < self.windows_batch_size),
            )
"""

AFTER_3_1_2 = """
from neuralforecast._nfpatch import sampling
import torch


class BaseModel(pl.LightningModule):
    def _sample_windows(self, windows_temporal, static, **kwargs):
        if step == "train" and self.windows_batch_size is not None:
            n_windows = windows_temporal.shape[0]
            w_idxs = sampling.draw_windows(self, n_windows)
"""

WINDOWS_BEFORE_2_0_1 = """
import torch


class BaseWindows(BaseModel):
    def _create_windows(self, batch, step, w_idxs=None):
        if step == "train":
            n_windows = len(windows)
            if self.windows_batch_size is not None:
                w_idxs = np.random.choice(
                    n_windows,
                    size=self.windows_batch_size,
                    replace=(n_windows < self.windows_batch_size),
                )
                windows = windows[w_idxs]
"""

WINDOWS_AFTER_2_0_1 = """
from neuralforecast._nfpatch import sampling
import torch


class BaseWindows(BaseModel):
    def _create_windows(self, batch, step, w_idxs=None):
        if step == "train":
            n_windows = len(windows)
            if self.windows_batch_size is not None:
                w_idxs = sampling.draw_windows(self, n_windows)
                windows = windows[w_idxs]
"""

RECURRENT_BEFORE_2_0_1 = """
import torch


class BaseRecurrent(BaseModel):
    def _create_windows(self, batch, step):
        if (step == "train") and (self.input_size > 0):
            if (input_size > 0) and (n_windows > input_size):
                max_sampleable_time = n_windows - self.input_size + 1
                start = np.random.choice(max_sampleable_time)
                windows = windows[:, :, start : (start + input_size), :]
"""

RECURRENT_AFTER_2_0_1 = """
from neuralforecast._nfpatch import sampling
import torch


class BaseRecurrent(BaseModel):
    def _create_windows(self, batch, step):
        if (step == "train") and (self.input_size > 0):
            if (input_size > 0) and (n_windows > input_size):
                max_sampleable_time = n_windows - self.input_size + 1
                start = sampling.draw_start(self, max_sampleable_time)
                windows = windows[:, :, start : (start + input_size), :]
"""


def test_the_windows_are_drawn_by_rank() -> None:
    assert patched("windows-of-each-rank", "3.3.0", BEFORE) == AFTER


def test_releases_before_3_1_4_draw_by_numpy() -> None:
    assert patched("windows-of-each-rank", "3.1.2", BEFORE_3_1_2) == AFTER_3_1_2


def test_releases_before_3_0_have_several_base_classes() -> None:
    assert patched("windows-of-each-rank", "2.0.1", WINDOWS_BEFORE_2_0_1, WINDOWS) == WINDOWS_AFTER_2_0_1
    assert patched("windows-of-each-rank", "2.0.1", RECURRENT_BEFORE_2_0_1, RECURRENT) == RECURRENT_AFTER_2_0_1


def test_a_draw_from_other_windows_is_refused() -> None:
    twin = BEFORE.replace("torch.randperm(n_windows,", "torch.randperm(len(self.windows),")
    with pytest.raises(CodemodRefused):
        patched("windows-of-each-rank", "3.3.0", twin)
