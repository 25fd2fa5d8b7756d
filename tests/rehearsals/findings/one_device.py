"""Strategies and accelerators that are objects: for one device, with an accelerator, and the script's own."""

from neuralforecast import NeuralForecast
from neuralforecast.models import NHITS
from neuralforecast.utils import AirPassengersPanel
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy

PANEL = AirPassengersPanel[["unique_id", "ds", "y"]]


class OnThisMachine(SingleDeviceStrategy):
    pass


class Processor(CPUAccelerator):
    pass


def train(**trainer):
    model = NHITS(h=6, input_size=12, max_steps=4, mlp_units=3 * [[8, 8]], **trainer)
    forecaster = NeuralForecast([model], freq="M")
    forecaster.fit(PANEL, val_size=6)
    return forecaster.predict()


train(strategy=OnThisMachine(device="cpu", accelerator=CPUAccelerator()))
train(strategy=DDPStrategy(accelerator=CPUAccelerator()))
train(accelerator=Processor(), devices=1)
