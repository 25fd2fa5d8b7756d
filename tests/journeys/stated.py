"""What upstream states of several devices, in our words, checked on one source tree after another.

`torchrun stated.py OUT RELEASE=TREE...` on two processes: each writes OUT/rank-N.json, by release what it found, as
long as all is well: a statement that does not hold ends the program. The statements are the functions with a docstring.
"""

import contextlib
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
N_WINDOWS = TRAINED - INPUT  # those with at least one value to forecast
SIZES = {
    "NHITS": {"mlp_units": [[8, 8]] * 3},
    "TSMixer": {"ff_dim": 4, "n_block": 1},
    "MLPMultivariate": {"hidden_size": 8},
    "SOFTS": {"hidden_size": 8, "d_core": 8, "d_ff": 8, "e_layers": 1},
    "StemGNN": {"n_stacks": 2},
}


def take(tree):
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
    """In series number n the value at time t is n * 1000 + t, so that the first value of a window names it."""
    return frame(np.arange(n_series)[:, None] * 1000.0 + np.arange(length))


# For models whose weights are zero: MLPMultivariate forecasts 0 then, NHITS the last value, which is off by OFF.
SLOPES = np.array([[1.0], [10.0], [100.0]])
ERRING = SLOPES * (1 + np.arange(TRAINED + VALIDATED))
TARGETS = [ERRING[:, at : at + H] for at in range(TRAINED, TRAINED + VALIDATED - H + 1)]
OFF = SLOPES[:, 0] * np.mean(1 + np.arange(H))


def model_of(forecaster):
    """The trained model: in 1.6.0, and there alone, a copy of the one that was given."""
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
    """One source tree, and the statements about it."""

    def __init__(self, name, tree, folder):
        self.package, self.models = take(tree)
        self.numbers = tuple(map(int, re.findall(r"\d+", name)))
        self.folder, self.rank = folder, dist.get_rank()

    def has(self, *names):
        return [name for name in names if hasattr(self.models, name)]

    @property
    def multivariate(self):
        """The models of upstream's tests; before the first of them there is one multivariate model."""
        return self.has("TSMixer", "MLPMultivariate", "SOFTS") or ["StemGNN"]

    def made(self, name, n_series, zero=False, **options):
        """A model that takes all its windows in each step, for two processes."""
        class_ = getattr(self.models, name)
        windows = {"windows_batch_size": None}
        if name != "NHITS":
            windows["n_series"] = n_series
            if "windows_batch_size" not in inspect.signature(class_).parameters:
                # up to 2.0.1 it draws so many windows a device
                del windows["windows_batch_size"]
                windows["batch_size"] = max(1, N_WINDOWS // dist.get_world_size())
        loss = importlib.import_module("neuralforecast.losses.pytorch").MAE()
        # up to 1.3.0 it validates after each epoch, and trains without a scaler
        newer = {"val_check_steps": 1, "scaler_type": "identity"} if self.numbers >= (1, 4) else {}
        model = class_(
            **{"h": H, "input_size": INPUT, "max_steps": 2, "learning_rate": 0.0, **newer},
            # up to 1.6.4 a model does not do without a progress bar
            **{"random_seed": 1, "logger": False, "enable_progress_bar": self.numbers < (1, 7)},
            **{"accelerator": "cpu", "devices": 2, "strategy": "ddp", "enable_model_summary": False},
            **{"loss": loss, **SIZES[name], **windows, **options},
        )
        if zero:
            for parameter in model.parameters():
                parameter.data.zero_()
        return model

    def fitted(self, model, n_series, length=TRAINED + VALIDATED, val_size=VALIDATED):
        """The forecaster, and the first value of each window in each step of training, by series if it has several."""
        seen, nhits = [], type(model).__name__ == "NHITS"

        def note(module, arguments):
            # Lightning calls the module twice: with the batch, for its training step, which gives it the windows
            given = arguments[0]
            if torch.is_tensor(given):  # 1.0.0
                given = {"insample_y": given}
            if module.training and "insample_y" in given:
                first = given["insample_y"].detach()[:, 0].reshape(-1, 1 if nhits else n_series)
                seen.append(first.tolist())

        hook = model.register_forward_pre_hook(note)
        forecaster = self.package.NeuralForecast(models=[model], freq="D")
        forecaster.fit(df=named_windows(n_series, length), val_size=val_size)
        hook.remove()
        return forecaster, seen

    def validated(self, model):
        """The validation losses of a fit with `ERRING` on this process."""
        forecaster = self.package.NeuralForecast(models=[model], freq="D")
        forecaster.fit(df=frame(ERRING), val_size=VALIDATED)
        return losses_of(forecaster)

    def multivariate_models_train(self):
        """TSMixer, MLPMultivariate and SOFTS train on two processes (tests/test_common/test_multi_device_training.py,
        pull request 1557) and validate there (the same file, pull request 1571). Every batch has all series, and each
        window is one device's: together they have all, and none twice.

        Up to 2.0.1 windows are drawn; here just as many as there are.
        """
        for name in self.multivariate:
            forecaster, seen = self.fitted(self.made(name, 4), 4)
            every = [None, None]
            dist.all_gather_object(every, seen)
            assert len(seen) == 2, (name, every)
            due = [[n * 1000.0 + start for n in range(4)] for start in range(N_WINDOWS)]
            for step in zip(*every):
                shares = [sorted(sorted(window) for window in share) for share in step]
                assert sorted(window for share in shares for window in share) == due, (name, step)
                assert [len(share) for share in shares] == [N_WINDOWS / 2] * 2, (name, step)
            assert np.isfinite(losses_of(forecaster)).all(), name

    def no_device_is_left_without_a_window(self):
        """With fewer windows than devices each device has them all, so that none waits for one that has nothing to do
        (the same file, pull request 1557).

        Before 1.7, in one process as well, a model may draw a window past the last one if it has more series than
        windows, so there it has one series.
        """
        name, n_series = self.multivariate[-1], 1 if self.numbers < (1, 7) else 4
        _, seen = self.fitted(self.made(name, n_series), n_series, length=INPUT + 1, val_size=0)
        due = {tuple(n * 1000.0 for n in range(n_series))}
        assert [{tuple(sorted(window)) for window in step} for step in seen] == [due, due]

    def other_models_keep_all_windows(self):
        """A univariate model takes all windows of the series that its device has (the same file, pull request 1557)."""
        _, seen = self.fitted(self.made("NHITS", 3), 3)
        assert len(seen) == 2
        for step in seen:
            starts = sorted(value for (value,) in step)
            series = sorted({value // 1000 for value in starts})
            due = [n * 1000.0 + start for n in series for start in range(N_WINDOWS)]
            assert (len(series), starts) == (2, due), step

    def a_model_without_a_trainer_keeps_all_windows(self):
        """So does a multivariate model that no trainer holds (the same file, pull request 1557)."""
        dataset = importlib.import_module("neuralforecast.tsdataset")
        data = dataset.TimeSeriesDataset.from_df(named_windows(4, TRAINED))[0]
        model = self.made(self.multivariate[-1], 4)
        if "batch_size" in inspect.signature(type(model)).parameters and model.batch_size < N_WINDOWS:
            model.batch_size = N_WINDOWS
        model.val_size = model.test_size = 0
        seen = []

        class End(Exception):
            pass

        def note(module, arguments):
            seen.extend(arguments[0]["insample_y"][:, 0].reshape(-1, 4)[:, 0].tolist())
            raise End

        model.register_forward_pre_hook(note)
        with contextlib.suppress(End):
            model.training_step(next(iter(dataset.TimeSeriesLoader(data, batch_size=4))), 0)
        assert sorted(value % 1000 for value in seen) == list(range(N_WINDOWS)), seen

    def each_window_counts_once_in_validation(self):
        """The validation loss of several devices is the mean of all windows, not of the devices' means (the same file,
        pull request 1571), and validation ends on each.

        Upstream weights what each device has found by its number of windows. Ours lets each device validate all
        windows, so that the padding of an odd number of series does not count, and a loss that is no mean is right.
        """
        for name in self.has("MLPMultivariate"):
            losses, due = self.validated(self.made(name, 3, zero=True)), np.mean(np.abs(TARGETS))
            assert np.allclose(losses, due, rtol=1e-5), (name, losses, due)
        losses = self.validated(self.made("NHITS", 3, zero=True))
        assert np.allclose(losses, np.mean(OFF), rtol=1e-5), losses

    def each_batch_of_validation_counts_by_its_windows(self):
        """Batches of unlike size are weighted, from 3.2.1 on (the same file, pull request 1571).

        Before, one process gives the mean of the batches' means. That has nothing to do with devices, so it is not
        healed: several devices give what one gives.
        """
        weighted = self.numbers >= (3, 2, 1)
        size = "valid_batch_size" if self.numbers >= (1, 4) else "batch_size"
        losses = self.validated(self.made("NHITS", 3, zero=True, **{size: 2}))
        due = np.mean(OFF) if weighted else np.mean([np.mean(OFF[:2]), OFF[2]])
        assert np.allclose(losses, due, rtol=1e-5), (losses, due)

    def loads(self, folder, like):
        loaded = model_of(self.package.NeuralForecast.load(folder)).state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in model_of(like).state_dict().items()), folder

    def saving_by_all_leaves_one_whole_model(self):
        """Processes that save at the same time do not get in each other's way (pull request 1460: no FileExistsError),
        and leave what the first one leaves by itself (tests/test_core.py, the same pull request).

        Upstream lets only the first one write, and another leaves nothing. Ours lets the first to come write, and
        the others wait for it, so that each can load right afterwards; what the second one leaves by itself is whole.
        """
        forecaster, _ = self.fitted(self.made("NHITS", 3), 3)
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


STATEMENTS = (
    Release.multivariate_models_train,
    Release.no_device_is_left_without_a_window,
    Release.other_models_keep_all_windows,
    Release.a_model_without_a_trainer_keeps_all_windows,
    Release.each_window_counts_once_in_validation,
    Release.each_batch_of_validation_counts_by_its_windows,
    Release.saving_by_all_leaves_one_whole_model,
)


OF_MULTIVARIATE_MODELS = STATEMENTS[:2] + STATEMENTS[3:4]


def statements_about(release):
    """The statements that say something of a release: before 1.5.0 no model is multivariate, and 1.0.0 cannot save."""
    left_out = () if release.numbers >= (1, 5) else OF_MULTIVARIATE_MODELS
    if release.numbers < (1, 1):
        left_out += (Release.saving_by_all_leaves_one_whole_model,)
    return [statement for statement in STATEMENTS if statement not in left_out]


def main(out, named_trees):
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"  # releases before 3.0 do not load with torch 2.6 otherwise
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo")
    sys.path.insert(0, "")
    told, started = {}, time.monotonic()
    for named in named_trees:
        name, _, tree = named.partition("=")
        release, told[name] = Release(name, tree, os.path.join(out, name)), {}
        for statement in statements_about(release):
            try:
                statement(release)
                told[name][statement.__name__] = "holds"
            except Exception:
                told[name][statement.__name__] = traceback.format_exc()
            with open(os.path.join(out, f"rank-{release.rank}.json"), "w", encoding="utf-8") as file:
                json.dump(told, file)
            if told[name][statement.__name__] != "holds":
                sys.exit(1)  # torchrun ends the other process, which may wait for this one
        print(f"{name}: {len(told[name])} statements hold, {time.monotonic() - started:.1f} s", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
