"""The layers of a validation loss that is not trained are frozen."""

from __future__ import annotations

import pytest
from snippets import patched

from nfpatch.codemod import CodemodRefused

BEFORE = """
import torch


class BaseModel(pl.LightningModule):
    def __init__(self, h, input_size, **kwargs):
        if valid_loss is None:
            pass
        else:
            self.valid_loss = valid_loss
"""

AFTER = """
from neuralforecast._nfpatch import validation
import torch


class BaseModel(pl.LightningModule):
    def __init__(self, h, input_size, **kwargs):
        if valid_loss is None:
            pass
        else:
            self.valid_loss = validation.freeze_layers(valid_loss, loss)
"""


def test_a_loss_of_its_own_is_frozen() -> None:
    assert patched("valid-loss-parameters", "3.3.0", BEFORE) == AFTER


def test_a_model_that_validates_with_another_loss_is_refused() -> None:
    twin = BEFORE.replace("self.valid_loss = valid_loss", "self.valid_loss = loss")
    with pytest.raises(CodemodRefused):
        patched("valid-loss-parameters", "3.3.0", twin)
