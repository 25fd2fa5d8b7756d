# Hierarchical forecasts with HINT: NHITS with a mixture distribution, reconciled bottom up.
import numpy as np
import pandas as pd

from neuralforecast import NeuralForecast
from neuralforecast.losses.pytorch import GMM, sCRPS
from neuralforecast.models import HINT, NHITS
from neuralforecast.utils import AirPassengersPanel

# The hierarchy: all passengers = Airline1 + Airline2.
# neuralforecast sorts by unique_id, so the names have to sort as the rows of S.
bottom_df = AirPassengersPanel[["unique_id", "ds", "y"]].copy()
bottom_df["unique_id"] = "All/" + bottom_df["unique_id"]
top_df = bottom_df.groupby("ds", as_index=False)["y"].sum()
top_df.insert(0, "unique_id", "All")
Y_df = pd.concat([top_df, bottom_df], ignore_index=True)
S_df = pd.DataFrame(
    [[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]],
    index=["All", "All/Airline1", "All/Airline2"],
    columns=["All/Airline1", "All/Airline2"],
)

horizon = 12
level = np.arange(0, 100, 10)

nhits = NHITS(
    h=horizon,
    input_size=24,
    loss=GMM(n_components=5, level=level),
    valid_loss=sCRPS(level=level),
    max_steps=100,
    val_check_steps=50,
    early_stop_patience_steps=10,
    scaler_type="robust",
    learning_rate=1e-3,
)
model = HINT(h=horizon, S=S_df.values, model=nhits, reconciliation="BottomUp")
nf = NeuralForecast(models=[model], freq="ME")
Y_hat_df = nf.cross_validation(df=Y_df, val_size=horizon, n_windows=1).reset_index()
print(Y_hat_df.filter(["unique_id", "ds", "cutoff", "y", "HINT", "HINT-median"]))

# The means add up
mean = Y_hat_df.pivot(index="ds", columns="unique_id", values="HINT")
gap = (mean["All"] - mean["All/Airline1"] - mean["All/Airline2"]).abs()
print("Largest incoherence:", (gap / mean["All"]).max())
