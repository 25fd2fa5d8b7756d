# Train with Lightning's checkpoints and early stopping; save, load, forecast, and train further on new data.
from pathlib import Path

import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

from neuralforecast import NeuralForecast
from neuralforecast.losses.pytorch import MAE
from neuralforecast.models import NHITS
from neuralforecast.utils import AirPassengersPanel

horizon = 12
Y_df = AirPassengersPanel[["unique_id", "ds", "y"]]
Y_old_df = Y_df[Y_df.ds <= "1959-12-31"]  # what was known when the model was trained first

checkpoint = ModelCheckpoint(
    dirpath="checkpoints/lightning",
    filename="nhits-{step}",
    monitor="ptl/val_loss",
    save_top_k=1,
    save_last=True,
)
model = NHITS(
    h=horizon,
    input_size=2 * horizon,
    loss=MAE(),
    max_steps=200,
    val_check_steps=20,
    learning_rate=1e-3,
    enable_checkpointing=True,
    callbacks=[checkpoint, EarlyStopping(monitor="ptl/val_loss", patience=3)],
)
nf = NeuralForecast(models=[model], freq="ME")
nf.fit(df=Y_old_df, val_size=horizon)
# neuralforecast trains a copy of the model, and so of its callbacks: look at the files
for path in sorted(Path("checkpoints/lightning").glob("*.ckpt")):
    state = torch.load(path, map_location="cpu", weights_only=False)
    print(path, "of step", state["global_step"])
Y_hat_df = nf.predict()

nf.save(path="checkpoints/nf", overwrite=True)
nf2 = NeuralForecast.load(path="checkpoints/nf")
Y_hat_df2 = nf2.predict()
difference = (Y_hat_df["NHITS"] - Y_hat_df2["NHITS"]).abs().max()
print("The loaded model forecasts the same:", difference < 1e-3)

# Another year is known: go on from the weights that were saved
nf3 = NeuralForecast.load(path="checkpoints/nf")
nf3.fit(df=Y_df, val_size=horizon)
print(nf3.predict().head())
nf3.save(path="checkpoints/nf", overwrite=True)
