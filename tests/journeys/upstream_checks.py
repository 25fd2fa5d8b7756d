"""The checks of upstream's multi-device tests, on one source tree after another.

`torchrun upstream_checks.py OUT RELEASE=TREE...` on two processes: each writes the results to OUT/rank-N.json, by
release, and exits at the first check that fails.
"""

import contextlib
import gc
import importlib
import inspect
import json
import logging
import os
import re
import sys
import time
import traceback
import warnings

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist

H, INPUT, VALIDATED, TRAINED = 2, 4, 4, 8
N_WINDOWS = TRAINED - INPUT  # with at least one value to forecast
SIZES = {
    "NHITS": {"mlp_units": [[8, 8]] * 3},
    "TSMixer": {"ff_dim": 4, "n_block": 1},
    "MLPMultivariate": {"hidden_size": 8},
    "SOFTS": {"hidden_size": 8, "d_core": 8, "d_ff": 8, "e_layers": 1},
    "StemGNN": {"n_stacks": 2},
}


def import_from(tree):
    for name in [name for name in sys.modules if name.split(".")[0] == "neuralforecast"]:
        del sys.modules[name]
    sys.path[0] = tree
    importlib.invalidate_caches()
    package = importlib.import_module("neuralforecast")
    assert package.__file__.startswith(tree), package.__file__
    return package, importlib.import_module("neuralforecast.models")


def frame(values):
    dates = pd.date_range("2020-01-01", periods=values.shape[1], freq="D")
    return pd.concat(
        [pd.DataFrame({"unique_id": f"s{n}", "ds": dates, "y": y}) for n, y in enumerate(values)], ignore_index=True
    )


def named_windows(n_series, length):
    """Series n has the value n * 1000 + t at time t, so that the first value of a window identifies it."""
    return frame(np.arange(n_series)[:, None] * 1000.0 + np.arange(length))


# For models whose weights are zero: MLPMultivariate forecasts 0, and NHITS the last value, which is off by OFF.
SLOPES = np.array([[1.0], [10.0], [100.0]])
SLOPED = SLOPES * (1 + np.arange(TRAINED + VALIDATED))
TARGETS = [SLOPED[:, at : at + H] for at in range(TRAINED, TRAINED + VALIDATED - H + 1)]
OFF = SLOPES[:, 0] * np.mean(1 + np.arange(H))


def model_of(forecaster):
    """The trained model; only 1.6.0 trains a copy of the one that it was given."""
    (model,) = getattr(forecaster, "models_fitted", forecaster.models)
    return model


def losses_of(forecaster):
    model = model_of(forecaster)
    if not hasattr(model, "valid_trajectories"):  # up to 1.3.0
        return [float(model.trainer.callback_metrics["ptl/val_loss"])]
    losses = [float(loss) for _, loss in model.valid_trajectories]
    assert losses
    return losses


class Release:
    """One source tree, and the checks of it."""

    def __init__(self, name, tree, folder):
        self.package, self.models = import_from(tree)
        self.numbers = tuple(map(int, re.findall(r"\d+", name)))
        self.folder, self.rank = folder, dist.get_rank()

    def has(self, *names):
        return [name for name in names if hasattr(self.models, name)]

    @property
    def multivariate(self):
        """The models of upstream's tests, or the only multivariate model of releases without them."""
        return self.has("TSMixer", "MLPMultivariate", "SOFTS") or ["StemGNN"]

    def make(self, name, n_series, zero=False, **options):
        """A model for two processes which uses all windows in each step."""
        class_ = getattr(self.models, name)
        windows = {"windows_batch_size": None}
        if name != "NHITS":
            windows["n_series"] = n_series
            if "windows_batch_size" not in inspect.signature(class_).parameters:
                # up to 2.0.1 each device draws this number of windows
                del windows["windows_batch_size"]
                windows["batch_size"] = max(1, N_WINDOWS // dist.get_world_size())
        loss = importlib.import_module("neuralforecast.losses.pytorch").MAE()
        # up to 1.3.0 models validate after each epoch, and have no scaler
        newer = {"val_check_steps": 1, "scaler_type": "identity"} if self.numbers >= (1, 4) else {}
        model = class_(
            **{"h": H, "input_size": INPUT, "max_steps": 2, "learning_rate": 0.0, **newer},
            # up to 1.6.4 a model needs a progress bar
            **{"random_seed": 1, "logger": False, "enable_progress_bar": self.numbers < (1, 7)},
            **{"accelerator": "cpu", "devices": 2, "strategy": "ddp", "enable_model_summary": False},
            **{"loss": loss, **SIZES[name], **windows, **options},
        )
        if zero:
            for parameter in model.parameters():
                parameter.data.zero_()
        return model

    def fitted(self, model, n_series, length=TRAINED + VALIDATED, val_size=VALIDATED):
        """The forecaster, and the first value of each window in each training step, by series if it has several."""
        seen, nhits = [], type(model).__name__ == "NHITS"

        def record(module, arguments):
            # Called twice: by Lightning with the batch, and by its training step with the windows
            given = arguments[0]
            if torch.is_tensor(given):  # 1.0.0
                given = {"insample_y": given}
            if module.training and "insample_y" in given:
                first = given["insample_y"].detach()[:, 0].reshape(-1, 1 if nhits else n_series)
                seen.append(first.tolist())

        hook = model.register_forward_pre_hook(record)
        forecaster = self.package.NeuralForecast(models=[model], freq="D")
        forecaster.fit(df=named_windows(n_series, length), val_size=val_size)
        hook.remove()
        return forecaster, seen

    def validated(self, model):
        """The validation losses of a fit on `SLOPED`."""
        forecaster = self.package.NeuralForecast(models=[model], freq="D")
        forecaster.fit(df=frame(SLOPED), val_size=VALIDATED)
        return losses_of(forecaster)

    def multivariate_models_train(self):
        """TSMixer, MLPMultivariate and SOFTS train on two processes (tests/test_common/test_multi_device_training.py,
        pull request 1557) and validate there (the same file, pull request 1571). Every batch has all series, and each
        window is trained on by exactly one device.

        Up to 2.0.1 windows are drawn at random; here as many as there are.
        """
        for name in self.multivariate:
            forecaster, seen = self.fitted(self.make(name, 4), 4)
            every = [None, None]
            dist.all_gather_object(every, seen)
            assert len(seen) == 2, (name, every)
            expected = [[n * 1000.0 + start for n in range(4)] for start in range(N_WINDOWS)]
            for step in zip(*every):
                shares = [sorted(sorted(window) for window in share) for share in step]
                assert sorted(window for share in shares for window in share) == expected, (name, step)
                assert [len(share) for share in shares] == [N_WINDOWS / 2] * 2, (name, step)
            assert np.isfinite(losses_of(forecaster)).all(), name

    def every_device_has_a_window(self):
        """With fewer windows than devices each device trains on all of them, so that no device has none and hangs the
        others (the same file, pull request 1557).

        Before 1.7, with one device as well, a model may draw a window past the last one if it has more series than
        windows, so one series is used there.
        """
        name, n_series = self.multivariate[-1], 1 if self.numbers < (1, 7) else 4
        _, seen = self.fitted(self.make(name, n_series), n_series, length=INPUT + 1, val_size=0)
        expected = {tuple(n * 1000.0 for n in range(n_series))}
        assert [{tuple(sorted(window)) for window in step} for step in seen] == [expected, expected]

    def univariate_models_use_all_windows(self):
        """A univariate model uses all windows of its device's series (the same file, pull request 1557)."""
        _, seen = self.fitted(self.make("NHITS", 3), 3)
        assert len(seen) == 2
        for step in seen:
            starts = sorted(value for (value,) in step)
            series = sorted({value // 1000 for value in starts})
            expected = [n * 1000.0 + start for n in series for start in range(N_WINDOWS)]
            assert (len(series), starts) == (2, expected), step

    def a_model_without_a_trainer_uses_all_windows(self):
        """So does a multivariate model without a trainer (the same file, pull request 1557)."""
        dataset = importlib.import_module("neuralforecast.tsdataset")
        data = dataset.TimeSeriesDataset.from_df(named_windows(4, TRAINED))[0]
        model = self.make(self.multivariate[-1], 4)
        if "batch_size" in inspect.signature(type(model)).parameters and model.batch_size < N_WINDOWS:
            model.batch_size = N_WINDOWS
        model.val_size = model.test_size = 0
        seen = []

        class End(Exception):
            pass

        def record(module, arguments):
            seen.extend(arguments[0]["insample_y"][:, 0].reshape(-1, 4)[:, 0].tolist())
            raise End

        model.register_forward_pre_hook(record)
        with contextlib.suppress(End):
            model.training_step(next(iter(dataset.TimeSeriesLoader(data, batch_size=4))), 0)
        assert sorted(value % 1000 for value in seen) == list(range(N_WINDOWS)), seen

    def each_window_counts_once_in_validation(self):
        """The validation loss of several devices is the mean of all windows, not of the devices' means (the same file,
        pull request 1571), and no device hangs.

        Upstream weights the loss of each device by its number of windows. The patch gives every device the losses of
        all batches, so that the padding of an odd number of series does not count, and losses that are not means are
        right.
        """
        for name in self.has("MLPMultivariate"):
            losses, expected = self.validated(self.make(name, 3, zero=True)), np.mean(np.abs(TARGETS))
            assert np.allclose(losses, expected, rtol=1e-5), (name, losses, expected)
        losses = self.validated(self.make("NHITS", 3, zero=True))
        assert np.allclose(losses, np.mean(OFF), rtol=1e-5), losses

    def each_batch_of_validation_counts_by_its_windows(self):
        """Batches of different sizes are weighted, from 3.2.1 on (the same file, pull request 1571).

        Before, a single device computes the mean of the batches' means. The patches do not change that: several
        devices give what one gives.
        """
        weighted = self.numbers >= (3, 2, 1)
        size = "valid_batch_size" if self.numbers >= (1, 4) else "batch_size"
        losses = self.validated(self.make("NHITS", 3, zero=True, **{size: 2}))
        expected = np.mean(OFF) if weighted else np.mean([np.mean(OFF[:2]), OFF[2]])
        assert np.allclose(losses, expected, rtol=1e-5), (losses, expected)

    def loads(self, folder, like):
        loaded = model_of(self.package.NeuralForecast.load(folder)).state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in model_of(like).state_dict().items()), folder

    def saving_by_all_ranks_leaves_one_complete_model(self):
        """Processes that save at the same time do not conflict (pull request 1460: no FileExistsError), and write the
        files that rank 0 writes when it saves on its own (tests/test_core.py, the same pull request).

        Upstream lets only rank 0 write. The patch lets the first rank to call `save` write while the others wait for
        it, so that each can load right afterwards; rank 1 on its own writes a complete model.
        """
        forecaster, _ = self.fitted(self.make("NHITS", 3), 3)
        both, first, second = (os.path.join(self.folder, name) for name in ("both", "first", "second"))
        for overwrite in (False, True):
            forecaster.save(both, overwrite=overwrite)
            self.loads(both, forecaster)
            dist.barrier()
        for rank, folder in enumerate((first, second)):
            if self.rank == rank:
                forecaster.save(folder)
                if os.path.exists(folder):
                    self.loads(folder, forecaster)
            dist.barrier()
        files = sorted(os.listdir(first))
        assert {"nhits_0", "configuration", "dataset"} <= {os.path.splitext(file)[0].lower() for file in files}, files
        assert sorted(os.listdir(both)) == files
        assert not os.path.exists(second) or sorted(os.listdir(second)) == files


CHECKS = (
    Release.multivariate_models_train,
    Release.every_device_has_a_window,
    Release.univariate_models_use_all_windows,
    Release.a_model_without_a_trainer_uses_all_windows,
    Release.each_window_counts_once_in_validation,
    Release.each_batch_of_validation_counts_by_its_windows,
    Release.saving_by_all_ranks_leaves_one_complete_model,
)


OF_MULTIVARIATE_MODELS = CHECKS[:2] + CHECKS[3:4]


def checks_of(release):
    """The checks that apply to a release: before 1.5.0 no model is multivariate, and 1.0.0 cannot save."""
    left_out = () if release.numbers >= (1, 5) else OF_MULTIVARIATE_MODELS
    if release.numbers < (1, 1):
        left_out += (Release.saving_by_all_ranks_leaves_one_complete_model,)
    return [check for check in CHECKS if check not in left_out]


def main(out, named_trees):
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"  # releases before 3.0 need it to load with torch 2.6
    gc.disable()  # up to 1.4.0 a model cannot be saved once Python has collected its trainer, with one process either
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo")
    sys.path.insert(0, "")
    results, started = {}, time.monotonic()
    for named in named_trees:
        name, _, tree = named.partition("=")
        release, results[name] = Release(name, tree, os.path.join(out, name)), {}
        for check in checks_of(release):
            try:
                check(release)
                results[name][check.__name__] = "pass"
            except Exception:
                results[name][check.__name__] = traceback.format_exc()
            with open(os.path.join(out, f"rank-{release.rank}.json"), "w", encoding="utf-8") as file:
                json.dump(results, file)
            if results[name][check.__name__] != "pass":
                sys.exit(1)  # torchrun stops the other process, which may be waiting for this one
        print(f"{name}: {len(results[name])} checks pass, {time.monotonic() - started:.1f} s", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
