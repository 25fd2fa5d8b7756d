"""A loaded model requests no more devices than there are."""

from __future__ import annotations

import pytest
from snippets import patched

from nfpatch.codemod import CodemodRefused

BEFORE = """
import torch


class NeuralForecast:
    def load(path, verbose, allow_pickle, trust_remote):
        neuralforecast._fitted = config_dict["_fitted"]
"""

AFTER = """
from neuralforecast._nfpatch import placement
import torch


class NeuralForecast:
    def load(path, verbose, allow_pickle, trust_remote):
        neuralforecast._fitted = config_dict["_fitted"]
        placement.clamp_devices(neuralforecast.models)
"""


def test_the_devices_are_clamped_when_a_forecaster_is_loaded() -> None:
    assert patched("load-on-fewer-devices", "3.3.0", BEFORE) == AFTER


def test_a_loader_that_reads_its_configuration_differently_is_refused() -> None:
    twin = BEFORE.replace('config_dict["_fitted"]', 'config_dict.get("_fitted")')
    with pytest.raises(CodemodRefused):
        patched("load-on-fewer-devices", "3.3.0", twin)
