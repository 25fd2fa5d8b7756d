import argparse
import json
from pathlib import Path

from neuralforecast import NeuralForecast
from neuralforecast.losses.pytorch import MSE
from neuralforecast.models import MLP, NHITS

from .data import load, mae, split


def main():
    parser = argparse.ArgumentParser(prog="python -m pipeline")
    parser.add_argument("--horizon", type=int, default=12)
    parser.add_argument("--max-steps", type=int, default=100)
    parser.add_argument("--report", type=Path, default=Path("report.json"))
    args = parser.parse_args()

    train, test = split(load(), args.horizon)
    common = dict(h=args.horizon, input_size=2 * args.horizon, loss=MSE(), max_steps=args.max_steps)
    nf = NeuralForecast(models=[NHITS(**common), MLP(**common)], freq="ME")
    nf.fit(df=train, val_size=args.horizon)

    report = mae(test, nf.predict().reset_index(), ["NHITS", "MLP"])
    args.report.write_text(json.dumps(report, indent=1))
    print(report)


if __name__ == "__main__":
    main()
