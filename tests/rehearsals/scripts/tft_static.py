# Usage example of TFT: static, historic and future exogenous features, probabilistic forecasts.
from neuralforecast import NeuralForecast
from neuralforecast.losses.pytorch import DistributionLoss
from neuralforecast.models import TFT
from neuralforecast.utils import AirPassengersPanel, AirPassengersStatic

AirPassengersPanel["month"] = AirPassengersPanel.ds.dt.month
Y_train_df = AirPassengersPanel[AirPassengersPanel.ds < AirPassengersPanel["ds"].values[-12]]  # 132 train
Y_test_df = AirPassengersPanel[AirPassengersPanel.ds >= AirPassengersPanel["ds"].values[-12]].reset_index(
    drop=True
)  # 12 test

nf = NeuralForecast(
    models=[
        TFT(
            h=12,
            input_size=48,
            hidden_size=20,
            loss=DistributionLoss(distribution="StudentT", level=[80, 90]),
            learning_rate=0.005,
            stat_exog_list=["airline1"],
            futr_exog_list=["y_[lag12]", "month"],
            hist_exog_list=["trend"],
            max_steps=100,
            val_check_steps=10,
            early_stop_patience_steps=10,
            scaler_type="robust",
            windows_batch_size=None,
            enable_progress_bar=True,
        ),
    ],
    freq="ME",
)
nf.fit(df=Y_train_df, static_df=AirPassengersStatic, val_size=12)
Y_hat_df = nf.predict(futr_df=Y_test_df).reset_index()

Y_hat_df = Y_test_df.merge(Y_hat_df, how="left", on=["unique_id", "ds"])
print(Y_hat_df[["unique_id", "ds", "y", "TFT-median", "TFT-lo-90", "TFT-hi-90"]])
inside = Y_hat_df["y"].between(Y_hat_df["TFT-lo-90"], Y_hat_df["TFT-hi-90"])
print("Coverage of the 90% interval by airline:")
print(inside.groupby(Y_hat_df["unique_id"]).mean())
