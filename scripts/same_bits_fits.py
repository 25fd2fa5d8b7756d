"""Trains cases in one process: `python same_bits_fits.py SPEC`, where torch is.

SPEC is a JSON file: {entry, tree, out, cases}. `entry` is the path of `nfpatch/target/__main__.py`, whose package has
models and data that serve here as well, `tree` a folder to put first on sys.path, and `cases` maps ids to
{case, val_size, cross_validation}: a `CaseSpec`, the length of the validation data, and whether to cross-validate.

`out` gets a JSON object for each case, one a line: {id, weights, random_streams, train_losses, valid_losses, forecasts,
cross_validation} or {id, error}. Weights (by name, buffers included), the states of the random streams after the fit
and the frames are SHA-256.
"""

# mypy: disable-error-code="import-not-found,import-untyped"
# torch and Lightning are there in the training interpreter only.

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import logging
import os
import pickle
import random
import runpy
import sys
import traceback
import warnings
from typing import Any, Callable

STEPS = 4
TRAINER = {"accelerator": "cpu", "devices": 1}


class Fits:
    """Trains with the neuralforecast that is imported."""

    def __init__(self, package: Any) -> None:
        self.models, self.trainer, self.comparing, self.data, self.observing, self.events = (
            importlib.import_module("nfpatch_target." + name)
            for name in ("models", "trainer", "comparing", "data", "observing", "events")
        )
        self.observation = self.observing.Observation()
        self.package = package

    def result_of(self, content: dict[str, Any]) -> dict[str, Any]:
        """What the case comes to: a fit from a seed, with validation, and what is asked of the model afterwards."""
        val_size = content["val_size"]
        case = self.events.decode(self.events.CaseSpec, content["case"])
        self.comparing.seed_everything()
        self.observation.begin()
        model = self.models.make_model(case, STEPS, self.trainer_arguments, self.data.n_series_of(case))
        data = self.data.data_of(case, model.h)
        forecaster = self.package.NeuralForecast(models=[model], freq=self.data.month_end())
        static = {} if data.static is None else {"static_df": data.static}
        forecaster.fit(df=data.past, val_size=val_size, **static)
        result: dict[str, Any] = {
            "weights": {
                name: sha256_hex(tensor.numpy().tobytes())
                for name, tensor in self.comparing.weights_of(self.models.trained_model_of(forecaster)).items()
            },
            "random_streams": random_streams(),
            # as hexadecimal, which compares not-a-number as well
            "train_losses": [loss.hex() for loss in self.observation.training.losses],
            "valid_losses": [loss.hex() for loss in self.observation.training.validated],
        }
        if not result["train_losses"] or not result["valid_losses"]:
            raise RuntimeError("nothing was trained or validated")
        future = {"futr_df": data.future} if "future" in case.exogenous else {}
        result["forecasts"] = asked(lambda: forecaster.predict(**future))
        if content["cross_validation"]:
            result["cross_validation"] = asked(
                lambda: forecaster.cross_validation(df=data.past, n_windows=2, val_size=val_size, **static)
            )
        return result

    def trainer_arguments(self) -> dict[str, Any]:
        """The arguments of Lightning's trainer."""
        return {**TRAINER, **self.trainer.quiet_arguments(self.observation)}


def asked(forecast: Callable[[], Any]) -> str:
    """The digest of a frame, or the error with which neuralforecast refuses it: HINT of 1.5.0 cannot predict."""
    try:
        return frame_digest(forecast())
    except Exception as error:
        traceback.print_exc()
        return in_short(error)


def in_short(error: Exception) -> str:
    """An exception in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def sha256_hex(content: bytes) -> str:
    """SHA-256 (hex)."""
    return hashlib.sha256(content).hexdigest()


def frame_digest(frame: Any) -> str:
    """SHA-256 (hex) of the numbers of a frame, in its order."""
    numbers = frame.drop(columns=["unique_id", "ds", "cutoff"], errors="ignore")
    return sha256_hex(",".join(numbers.columns).encode() + numbers.to_numpy(dtype="float64").tobytes())


def random_streams() -> dict[str, str]:
    """The states of all streams of random numbers."""
    import numpy
    import torch

    return {
        "python": sha256_hex(repr(random.getstate()).encode()),
        "numpy": sha256_hex(pickle.dumps(numpy.random.get_state(), protocol=2)),
        "torch": sha256_hex(torch.get_rng_state().numpy().tobytes()),
    }


def solve_alike() -> None:
    """Makes `torch.linalg.lstsq` give the same bits in each process, which its default driver does not.

    KAN's first weights come from it, as released and patched.
    """
    import torch

    torch.linalg.lstsq = functools.partial(torch.linalg.lstsq, driver="gelsd")


def main(path: str) -> None:
    """Trains all cases of the specification."""
    with open(path, encoding="utf-8") as file:
        spec = json.load(file)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    runpy.run_path(spec["entry"])  # makes its package importable
    source = importlib.import_module("nfpatch_target.source")
    package = source.import_neuralforecast(spec["tree"], list(sys.path))
    if not os.path.samefile(os.path.dirname(os.path.dirname(package.__file__)), spec["tree"]):
        raise SystemExit(f"imported {package.__file__}, and not {spec['tree']}")
    solve_alike()
    fits = Fits(package)
    with open(spec["out"], "w", encoding="utf-8") as out:
        for name, case in spec["cases"].items():
            try:
                result = fits.result_of(case)
            except Exception as error:
                traceback.print_exc()
                result = {"error": in_short(error)}
            out.write(json.dumps({"id": name, **result}) + "\n")
            out.flush()


if __name__ == "__main__":
    main(sys.argv[1])
