"""Train the model of conf/: python main.py model=timemixer horizon=4"""

import logging

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from neuralforecast import NeuralForecast
from neuralforecast.utils import generate_series

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig):
    log.info("\n%s", OmegaConf.to_yaml(cfg, resolve=True))
    df = generate_series(
        n_series=cfg.data.n_series, freq=cfg.data.freq, min_length=120, max_length=121, seed=cfg.data.seed
    ).reset_index()
    df["unique_id"] = df["unique_id"].astype(str)

    model = instantiate(cfg.model, **cfg.trainer)
    nf = NeuralForecast(models=[model], freq=cfg.data.freq, local_scaler_type="standard")
    cv = nf.cross_validation(df=df, n_windows=2, step_size=cfg.horizon, val_size=cfg.horizon)

    mae = (cv["y"] - cv[type(model).__name__]).abs().groupby(cv["unique_id"]).mean()
    log.info("MAE by series:\n%s", mae)
    cv.to_csv("cv.csv", index=False)  # into hydra's folder of this run


if __name__ == "__main__":
    main()
