"""A model class of the script's own makes a layer, and never uses it."""

from neuralforecast import NeuralForecast
from neuralforecast.models import NBEATS
from neuralforecast.utils import AirPassengersPanel
from torch import nn


class Bottleneck(NBEATS):
    def __init__(self, width=3, **options):
        super().__init__(**options)
        self.squeeze = nn.Sequential(nn.Linear(12, width), nn.Linear(width, 12))


panel = AirPassengersPanel[["unique_id", "ds", "y"]]
model = Bottleneck(h=6, input_size=12, max_steps=4, mlp_units=3 * [[8, 8]])
NeuralForecast([model], freq="M").fit(panel)
