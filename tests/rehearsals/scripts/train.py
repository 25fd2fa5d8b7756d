from neuralforecast import NeuralForecast
from neuralforecast.models import TFT
from neuralforecast.utils import AirPassengersPanel

frame = AirPassengersPanel[["unique_id", "ds", "y"]]
model = TFT(h=12, input_size=24, hidden_size=8, max_steps=500, strategy="ddp")
forecaster = NeuralForecast(models=[model], freq="M")
forecaster.fit(frame, val_size=12)
print(forecaster.predict())
