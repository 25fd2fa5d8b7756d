# Tourism by state and region: coherent forecasts with HINT, for each way of reconciliation.
import numpy as np
import pandas as pd

from neuralforecast import NeuralForecast
from neuralforecast.losses.pytorch import GMM, sCRPS
from neuralforecast.models import HINT, NHITS

rng = np.random.default_rng(4)
quarters = pd.date_range("2000-03-31", periods=80, freq="QE")
bottom_ids = ["Country/North/Coast", "Country/North/Hills", "Country/South/Coast", "Country/South/Lakes"]
season = 10 * np.tile([3, 1, 0, 2], 20)
bottom = np.stack([100 + 30 * i + (1 + i) * season + rng.normal(0, 5, 80) for i in range(4)])

S = pd.DataFrame(
    [[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 0], [0, 0, 0, 1]],
    columns=bottom_ids,
    index=["Country", "Country/North", *bottom_ids[:2], "Country/South", *bottom_ids[2:]],
    dtype=float,
)
Y = S.values @ bottom
Y_df = pd.concat(pd.DataFrame({"unique_id": name, "ds": quarters, "y": row}) for name, row in zip(S.index, Y))
horizon = 4

models = []
for reconciliation in ("BottomUp", "MinTraceOLS", "MinTraceWLS"):
    base = NHITS(
        h=horizon,
        input_size=16,
        loss=GMM(n_components=3, level=[80, 90], num_samples=200),
        valid_loss=sCRPS(level=[80, 90]),
        mlp_units=3 * [[32, 32]],
        n_pool_kernel_size=[2, 2, 1],
        n_freq_downsample=[2, 2, 1],
        max_steps=150,
        val_check_steps=50,
        scaler_type="robust",
    )
    models.append(HINT(h=horizon, S=S.values, model=base, reconciliation=reconciliation, alias=reconciliation))

nf = NeuralForecast(models=models, freq="QE")
cv = nf.cross_validation(df=Y_df, val_size=horizon, n_windows=2, step_size=horizon).reset_index()
for model in models:
    name = str(model)
    mae = (cv["y"] - cv[name]).abs().mean()
    mean = cv.pivot(index=["cutoff", "ds"], columns="unique_id", values=name)
    gap = (mean["Country"] - mean[bottom_ids].sum(axis=1)).abs().max()
    print(f"{name}: MAE {mae:.2f}, largest incoherence {gap:.4f}")
