"""Each rank draws a width of its own."""

import random

from neuralforecast import NeuralForecast
from neuralforecast.models import NBEATS
from neuralforecast.utils import AirPassengersPanel

panel = AirPassengersPanel[["unique_id", "ds", "y"]]
width = random.randint(8, 5000)
forecaster = NeuralForecast([NBEATS(h=6, input_size=12, max_steps=4, mlp_units=3 * [[8, width]])], freq="M")
forecaster.fit(panel)
