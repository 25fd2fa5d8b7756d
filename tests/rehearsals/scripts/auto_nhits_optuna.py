# Hyperparameter search of NHITS with optuna.
import optuna

from neuralforecast import NeuralForecast
from neuralforecast.auto import AutoNHITS
from neuralforecast.losses.pytorch import MAE
from neuralforecast.utils import AirPassengersDF

optuna.logging.set_verbosity(optuna.logging.WARNING)

horizon = 12
Y_train_df = AirPassengersDF[AirPassengersDF.ds <= "1959-12-31"]
Y_test_df = AirPassengersDF[AirPassengersDF.ds > "1959-12-31"]


def config_nhits(trial):
    return {
        "max_steps": 50,
        "input_size": trial.suggest_categorical("input_size", (24, 36)),
        "n_pool_kernel_size": trial.suggest_categorical("n_pool_kernel_size", ([2, 2, 2], [4, 2, 1])),
        "n_freq_downsample": trial.suggest_categorical("n_freq_downsample", ([12, 4, 1], [1, 1, 1])),
        "mlp_units": 3 * [[64, 64]],
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True),
        "val_check_steps": 25,
        "random_seed": trial.suggest_int("random_seed", low=1, high=10),
        "enable_progress_bar": False,
    }


model = AutoNHITS(
    h=horizon,
    loss=MAE(),
    config=config_nhits,
    search_alg=optuna.samplers.TPESampler(),
    backend="optuna",
    num_samples=3,
)
nf = NeuralForecast(models=[model], freq="ME")
nf.fit(df=Y_train_df, val_size=24)

results = nf.models[0].results.trials_dataframe()
print(results.drop(columns="user_attrs_ALL_PARAMS"))
print("Best:", nf.models[0].results.best_params)

Y_hat_df = nf.predict().reset_index()
Y_hat_df = Y_test_df.merge(Y_hat_df, how="left", on=["unique_id", "ds"])
print(Y_hat_df[["ds", "y", "AutoNHITS"]])
