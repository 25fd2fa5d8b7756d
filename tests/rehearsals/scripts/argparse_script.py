"""Train one model and write its forecasts: python argparse_script.py --model NHITS --horizon 12 --output forecasts.csv"""

import argparse
from pathlib import Path

from neuralforecast import NeuralForecast
from neuralforecast.losses.pytorch import MAE, MQLoss
from neuralforecast.models import MLP, NBEATS, NHITS, PatchTST
from neuralforecast.utils import AirPassengersPanel

MODELS = {"NHITS": NHITS, "NBEATS": NBEATS, "MLP": MLP, "PatchTST": PatchTST}


def parse_args():
    parser = argparse.ArgumentParser(description="Forecast the air passengers")
    parser.add_argument("--model", choices=sorted(MODELS), default="NHITS")
    parser.add_argument("--horizon", type=int, default=12)
    parser.add_argument("--max-steps", type=int, default=100)
    parser.add_argument("--quantiles", action="store_true", help="Forecast the 80%% interval too")
    parser.add_argument("--output", type=Path, default=Path("forecasts.csv"))
    return parser.parse_args()


def main():
    args = parse_args()
    model = MODELS[args.model](
        h=args.horizon,
        input_size=2 * args.horizon,
        loss=MQLoss(level=[80]) if args.quantiles else MAE(),
        scaler_type="robust",
        max_steps=args.max_steps,
        random_seed=7,
    )
    nf = NeuralForecast(models=[model], freq="ME")
    nf.fit(df=AirPassengersPanel, val_size=args.horizon)

    forecasts = nf.predict()
    if "unique_id" not in forecasts.columns:  # the index in neuralforecast 1
        forecasts = forecasts.reset_index()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    forecasts.to_csv(args.output, index=False)
    print(f"{len(forecasts)} rows written to {args.output}")


if __name__ == "__main__":
    main()
