"""A search on the CPU that says nothing of devices, of which neuralforecast then asks for all where there are GPUs."""

from neuralforecast import NeuralForecast
from neuralforecast.auto import AutoNBEATS
from neuralforecast.utils import AirPassengersPanel


def configuration(trial):
    rate = trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)
    fixed = {"input_size": 12, "max_steps": 4, "val_check_steps": 2, "mlp_units": 3 * [[8, 8]]}
    return {**fixed, "learning_rate": rate, "accelerator": "cpu"}


panel = AirPassengersPanel[["unique_id", "ds", "y"]]
search = AutoNBEATS(h=6, backend="optuna", config=configuration, num_samples=2)
NeuralForecast([search], freq="M").fit(panel, val_size=6)
