# The quick start of the README: NBEATS and NHITS on AirPassengers.
from neuralforecast import NeuralForecast
from neuralforecast.models import NBEATS, NHITS
from neuralforecast.utils import AirPassengersDF

# Split data and declare panel dataset
Y_df = AirPassengersDF
Y_train_df = Y_df[Y_df.ds <= "1959-12-31"]  # 132 train
Y_test_df = Y_df[Y_df.ds > "1959-12-31"]  # 12 test

# Fit and predict with NBEATS and NHITS models
horizon = len(Y_test_df)
models = [
    NBEATS(input_size=2 * horizon, h=horizon, max_steps=100),
    NHITS(input_size=2 * horizon, h=horizon, max_steps=100),
]
nf = NeuralForecast(models=models, freq="ME")
nf.fit(df=Y_train_df, val_size=horizon)
Y_hat_df = nf.predict().reset_index()

# Compare with the year that was kept back
Y_hat_df = Y_test_df.merge(Y_hat_df, how="left", on=["unique_id", "ds"])
print(Y_hat_df[["ds", "y", "NBEATS", "NHITS"]])
for model in ["NBEATS", "NHITS"]:
    print(model, "MAE:", round((Y_hat_df["y"] - Y_hat_df[model]).abs().mean(), 2))
Y_hat_df.to_csv("forecasts.csv", index=False)
