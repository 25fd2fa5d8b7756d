"""Saves, loads and resumes models with several source trees: `python saving.py SPEC`, in the training interpreter.

SPEC is a JSON file: {entry, out, jobs: [{tree, do, ...}]}. `entry` is the path of `nfpatch/target/__main__.py`, whose
package has the models, `tree` a folder to put first on sys.path, and `do` one of these, each with
its `cases`, a mapping of folders to cases as a proof has them:

    save     trains each, saves it into its folder, and forecasts
    load     loads each from its folder, and forecasts
    fit      trains each for STEPS steps with a checkpoint half way, `FOLDER/HALF_WAY`
    resume   trains each from that checkpoint to the end

`out` gets a pickle of a list with an element a job: {folder: the bytes of the forecasts, or those of the weights by
name, or the text of the exception}.
"""

# mypy: disable-error-code="import-not-found,import-untyped"
# torch and Lightning are there in the training interpreter only.

from __future__ import annotations

import functools
import importlib
import json
import logging
import os
import pickle
import runpy
import sys
import traceback
import warnings
from typing import Any, Callable

STEPS = 6
HALF_WAY = "step=3.ckpt"  # as Lightning itself names it
TRAINER = {"accelerator": "cpu", "devices": 1, "logger": False}


class Bench:
    """Trains and loads with the imported neuralforecast."""

    def __init__(self, package: Any) -> None:
        self.models, self.trainer, self.comparing, self.data = (
            importlib.import_module("nfpatch_target." + name) for name in ("models", "trainer", "comparing", "data")
        )
        self.package = package
        self.utils = importlib.import_module("neuralforecast.utils")

    def model(self, case: Any, steps: int, **more: Any) -> Any:
        """The model of a case, untrained."""
        numbers = tuple(int(number) for number in self.package.__version__.split(".")[:2])
        quiet = {"enable_progress_bar": False} if numbers >= self.trainer.FIRST_RELEASE_WITHOUT_PROGRESS_BAR else {}
        n_series = self.data.n_series_of(case)
        return self.models.make_model(case, steps, lambda: {**TRAINER, **quiet, **more}, n_series)

    def trained(self, case: Any, model: Any) -> Any:
        """A forecaster with this model, trained."""
        forecaster = self.package.NeuralForecast(models=[model], freq="M")
        panel = self.utils.AirPassengersPanel.groupby("unique_id").head(-model.h).reset_index(drop=True)
        static = {"static_df": self.utils.AirPassengersStatic} if "static" in case.exogenous else {}
        self.comparing.seed_everything()
        forecaster.fit(df=panel, **static)
        return forecaster

    def forecasts(self, case: Any, forecaster: Any) -> bytes:
        """The forecasts of a forecaster."""
        panel = self.utils.AirPassengersPanel
        future = panel.groupby("unique_id").tail(forecaster.h).reset_index(drop=True)
        self.comparing.seed_everything()
        frame = forecaster.predict(**({"futr_df": future} if "future" in case.exogenous else {}))
        columns = [name for name in frame.columns if name not in ("unique_id", "ds")]
        return frame[columns].to_numpy(dtype="float64").tobytes()  # type: ignore[no-any-return]

    def weights(self, forecaster: Any) -> dict[str, bytes]:
        """The weights of a model."""
        weights = self.comparing.weights_of(self.models.trained_model_of(forecaster))
        return {name: weight.numpy().tobytes() for name, weight in weights.items()}

    def save(self, folder: str, case: Any) -> Any:
        """Trains a model, saves it, and forecasts."""
        forecaster = self.trained(case, self.model(case, 2, enable_checkpointing=False))
        os.makedirs(folder)
        forecaster.save(folder, overwrite=True)
        return self.forecasts(case, forecaster)

    def load(self, folder: str, case: Any) -> Any:
        """Loads a model, and forecasts."""
        return self.forecasts(case, self.package.NeuralForecast.load(folder))

    def fit(self, folder: str, case: Any) -> Any:
        """Trains a model, and writes a checkpoint half way."""
        from pytorch_lightning.callbacks import ModelCheckpoint

        half = ModelCheckpoint(folder, "{step}", every_n_train_steps=STEPS // 2, save_top_k=-1)
        forecaster = self.trained(case, self.model(case, STEPS, enable_checkpointing=True, callbacks=[half]))
        return self.weights(forecaster)

    def resume(self, folder: str, case: Any) -> Any:
        """Resumes from the checkpoint."""
        import pytorch_lightning

        fit = pytorch_lightning.Trainer.fit
        pytorch_lightning.Trainer.fit = functools.partialmethod(fit, ckpt_path=os.path.join(folder, HALF_WAY))
        try:
            forecaster = self.trained(case, self.model(case, STEPS, enable_checkpointing=False))
        finally:
            pytorch_lightning.Trainer.fit = fit
        return self.weights(forecaster)


def run_action(action: Callable[[], Any]) -> Any:
    """The result of an action, or the text of the exception that it raises."""
    try:
        return action()
    except Exception as error:
        traceback.print_exc()
        return " ".join(f"{type(error).__name__}: {error}".split())


def draw_alike_at_every_step() -> None:
    """Makes the random draws of a training step depend only on its number, because a resumed fit draws again."""
    import numpy
    import pytorch_lightning
    import torch

    def start(module: Any, *batch: Any) -> None:
        torch.manual_seed(module.global_step)
        numpy.random.seed(module.global_step)

    pytorch_lightning.LightningModule.on_train_batch_start = start
    torch.utils.data.RandomSampler.__iter__ = lambda sampler: iter(range(sampler.num_samples))


def main(path: str) -> None:
    """Runs all jobs of the specification."""
    with open(path, encoding="utf-8") as file:
        spec = json.load(file)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    runpy.run_path(spec["entry"])  # makes its package importable
    source, events = (importlib.import_module(f"nfpatch_target.{name}") for name in ("source", "events"))
    base_path = list(sys.path)
    results = []
    for job in spec["jobs"]:
        bench = Bench(source.import_neuralforecast(job["tree"], base_path))
        draw_alike_at_every_step()
        work = getattr(bench, job["do"])
        cases = [(folder, events.decode(events.CaseSpec, case)) for folder, case in job["cases"].items()]
        results.append({folder: run_action(functools.partial(work, folder, case)) for folder, case in cases})
    with open(spec["out"], "wb") as out:
        pickle.dump(results, out)


if __name__ == "__main__":
    main(sys.argv[1])
