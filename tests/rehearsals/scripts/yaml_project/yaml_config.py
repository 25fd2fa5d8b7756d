"""Train what conf/config.yaml says: python yaml_config.py [CONFIG]"""

import sys
from pathlib import Path

import yaml
from features import add_calendar, add_lags

from neuralforecast import NeuralForecast, models
from neuralforecast.utils import AirPassengersPanel

here = Path(__file__).resolve().parent
config_path = Path(sys.argv[1]) if len(sys.argv) > 1 else here / "conf" / "config.yaml"
with open(config_path) as file:
    config = yaml.safe_load(file)

horizon = config["data"]["test_size"]
Y_df = AirPassengersPanel[["unique_id", "ds", "y"]]
Y_df = add_lags(add_calendar(Y_df), config["data"]["lags"])
Y_test_df = Y_df.groupby("unique_id").tail(horizon)
Y_train_df = Y_df.drop(Y_test_df.index)

nf = NeuralForecast(
    models=[
        getattr(models, name)(h=horizon, **arguments, **config["trainer"])
        for name, arguments in config["models"].items()
    ],
    freq=config["data"]["freq"],
)
nf.fit(df=Y_train_df, val_size=horizon)

Y_hat_df = nf.predict(futr_df=Y_test_df.drop(columns="y")).reset_index()
Y_hat_df = Y_test_df.merge(Y_hat_df, how="left", on=["unique_id", "ds"])
report = {name: float((Y_hat_df["y"] - Y_hat_df[name]).abs().mean()) for name in config["models"]}
print(yaml.safe_dump({"mae": report}))
