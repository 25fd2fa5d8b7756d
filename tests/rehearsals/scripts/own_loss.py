# A loss of one's own: a forecast that is too low costs more than one that is too high, the more so the nearer it is.
import torch

from neuralforecast import NeuralForecast
from neuralforecast.losses.pytorch import MAE, BasePointLoss
from neuralforecast.models import GRU, NHITS
from neuralforecast.utils import AirPassengersPanel


class StockoutLoss(BasePointLoss):
    """Absolute error, `penalty` times where too little was forecast, and a smooth part near zero."""

    def __init__(self, penalty=3.0, smooth=0.5, horizon_weight=None):
        super().__init__(horizon_weight=horizon_weight, outputsize_multiplier=1, output_names=[""])
        self.penalty = penalty
        self.smooth = smooth

    def __call__(self, y, y_hat, y_insample=None, mask=None):
        error = y - y_hat
        size = torch.where(error.abs() < self.smooth, error**2 / (2 * self.smooth), error.abs() - self.smooth / 2)
        losses = torch.where(error > 0, self.penalty * size, size)
        weights = self._compute_weights(y=losses, mask=mask)
        return (losses * weights).sum() / weights.sum().clamp(min=1)


horizon = 12
df = AirPassengersPanel[["unique_id", "ds", "y"]]
near_first = torch.linspace(1.5, 0.5, horizon)

trainer = dict(accelerator="auto", devices="auto", strategy="ddp")
models = [
    NHITS(
        h=horizon,
        input_size=24,
        loss=StockoutLoss(horizon_weight=near_first),
        valid_loss=MAE(),
        max_steps=200,
        val_check_steps=50,
        early_stop_patience_steps=2,
        scaler_type="standard",
        **trainer,
    ),
    GRU(
        h=horizon,
        input_size=24,
        loss=StockoutLoss(penalty=2),
        encoder_hidden_size=16,
        decoder_hidden_size=16,
        max_steps=100,
        val_check_steps=50,
        scaler_type="standard",
        **trainer,
    ),
]
nf = NeuralForecast(models=models, freq="ME")
nf.fit(df=df, val_size=horizon)
forecasts = nf.predict()
print(forecasts.groupby("unique_id").agg({"NHITS": "mean", "GRU": "mean"}))
