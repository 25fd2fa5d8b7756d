"""The error of a fit on Spark is found in the output of its processes."""

from __future__ import annotations

import pytest

from nfpatch.target.on_spark import first_error_in

PRINTED = {
    "a rank that torch's launcher speaks for": (
        "[rank1]: Traceback (most recent call last):\n"
        '[rank1]:   File "train.py", line 1, in <module>\n'
        "[rank1]: RuntimeError: It looks like your LightningModule has parameters\n"
        "torch.distributed.elastic.multiprocessing.errors.ChildFailedError:\n",
        "RuntimeError: It looks like your LightningModule has parameters",
    ),
    "a rank that fails because another has": (
        "RuntimeError: gloo: Connection closed by peer [127.0.0.1]:1\nIndexError: list index out of range\n",
        "IndexError: list index out of range",
    ),
    "a task of Spark's, in what Java prints": (
        "org.apache.spark.api.python.PythonException: Traceback (most recent call last):\n"
        "AttributeError: 'NeuralForecast' object has no attribute 'static_scalers_'\n\tat org.apache.spark\n",
        "AttributeError: 'NeuralForecast' object has no attribute 'static_scalers_'",
    ),
    "an error of neuralforecast's without a type of its own": ("Exception: No windows\n", "Exception: No windows"),
    "nothing": ("Some error happened\n", None),
}


@pytest.mark.parametrize(("text", "expected"), PRINTED.values(), ids=PRINTED)
def test_the_error_of_the_first_failed_process_is_found(text: str, expected: str | None) -> None:
    assert first_error_in(text) == expected
