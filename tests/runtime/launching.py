"""A search for which Lightning starts the processes: `python launching.py OUT`; each process writes OUT/rank-N.json."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from patches.runtime import search


def config(trial: Any) -> dict[str, Any]:
    return {"accelerator": "cpu", "devices": 2, "strategy": "ddp", "rate": trial.suggest_float("rate", 0.0, 1.0)}


class MockTrial:
    def suggest_float(self, *_: Any) -> float:
        return 0.0


def objective(trial: Any) -> float:
    rate = torch.tensor(broadcast_config(trial)["rate"])
    torch.distributed.all_reduce(rate)  # the ranks train together
    return float(rate)


ranks = search.start_search(config, MockTrial())
broadcast_config = ranks.broadcast_config(config)
study = ranks.optimize(ranks.create_study(), objective, n_trials=2)
found = {
    "world_size": torch.distributed.get_world_size(),
    "trials": [[trial.state.name, trial.value] for trial in study.trials],
}
(Path(sys.argv[1]) / f"rank-{ranks.rank}.json").write_text(json.dumps(found))
