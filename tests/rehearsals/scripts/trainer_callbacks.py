# Lightning's trainer with callbacks of one's own: a log of the loss, and an end of training once it is small enough.
import csv

from pytorch_lightning.callbacks import Callback, LearningRateMonitor
from pytorch_lightning.loggers import CSVLogger

from neuralforecast import NeuralForecast
from neuralforecast.losses.pytorch import MSE
from neuralforecast.models import NHITS
from neuralforecast.utils import AirPassengersPanel


class LossLog(Callback):
    def __init__(self, path):
        self.path = path
        self.rows = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.rows.append((trainer.global_step, float(outputs["loss"])))

    def on_train_end(self, trainer, pl_module):
        with open(self.path, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["step", "loss"])
            writer.writerows(self.rows)


class StopWhenGood(Callback):
    """End the training at the first step whose loss is below what is wanted."""

    def __init__(self, wanted):
        self.wanted = wanted

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if outputs["loss"] < self.wanted:
            print(f"good enough after {trainer.global_step} steps")
            trainer.should_stop = True


horizon = 12
df = AirPassengersPanel[["unique_id", "ds", "y"]]
model = NHITS(
    h=horizon,
    input_size=24,
    loss=MSE(),
    max_steps=500,
    batch_size=1,
    learning_rate=1e-3,
    callbacks=[LossLog("loss.csv"), StopWhenGood(15000.0), LearningRateMonitor()],
    logger=CSVLogger("logs"),
)
nf = NeuralForecast(models=[model], freq="ME")
nf.fit(df=df)
print(nf.predict())
