# Parameters, losses and results of a run in mlflow, in a local folder.
import mlflow
import mlflow.pytorch

from neuralforecast import NeuralForecast
from neuralforecast.losses.pytorch import MAE
from neuralforecast.models import TSMixerx
from neuralforecast.utils import AirPassengersPanel

TRACKING = "sqlite:///mlflow.db"
HORIZON = 12
params = {"input_size": 24, "n_block": 2, "ff_dim": 16, "dropout": 0.1, "learning_rate": 1e-3, "max_steps": 200}

df = AirPassengersPanel[["unique_id", "ds", "y"]]
test = df.groupby("unique_id").tail(HORIZON)
train = df.drop(test.index)

mlflow.set_tracking_uri(TRACKING)
mlflow.set_experiment("air passengers")
mlflow.pytorch.autolog(checkpoint=False, log_models=False)
with mlflow.start_run(run_name="tsmixerx") as run:
    mlflow.log_params(params)
    model = TSMixerx(h=HORIZON, n_series=2, loss=MAE(), val_check_steps=50, logger=False, **params)
    nf = NeuralForecast(models=[model], freq="ME")
    nf.fit(df=train, val_size=HORIZON)

    forecasts = nf.predict()
    merged = test.merge(forecasts, on=["unique_id", "ds"])
    error = (merged["y"] - merged["TSMixerx"]).abs()
    for unique_id, mae in error.groupby(merged["unique_id"]).mean().items():
        mlflow.log_metric(f"mae_{unique_id}", mae)
    mlflow.log_metric("mae", error.mean())

runs = mlflow.search_runs(experiment_names=["air passengers"])
print(runs[["run_id", "metrics.mae"]])
