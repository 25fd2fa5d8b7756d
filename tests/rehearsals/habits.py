"""A training script with a common habit of user scripts, which its first argument names."""

import logging
import os
import signal
import subprocess
import sys
import threading

import torch
from neuralforecast import NeuralForecast
from neuralforecast.models import NHITS
from neuralforecast.utils import AirPassengersPanel
from pytorch_lightning.callbacks import GradientAccumulationScheduler

HABIT = sys.argv[1]
RANK = int(os.environ.get("LOCAL_RANK", "0"))
FRAME = AirPassengersPanel[["unique_id", "ds", "y"]]


def forecaster(**trainer):
    options = {"mlp_units": [[8, 8]] * 3, "logger": False, "enable_checkpointing": False, **trainer}
    return NeuralForecast(models=[NHITS(h=12, input_size=24, max_steps=50, **options)], freq="M")


class Waiting(NHITS):
    """Rank 0 waits at a barrier that the other rank never reaches."""

    def on_train_end(self):
        if RANK == 0:
            torch.distributed.barrier()
        threading.Event().wait()


nf = forecaster(strategy="ddp")
if HABIT == "chdir":
    os.makedirs("elsewhere", exist_ok=True)
    os.chdir("elsewhere")
elif HABIT == "excepthook":
    sys.excepthook = lambda *error: os._exit(7)
elif HABIT == "logs":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, force=True)
    logging.info("a line of the script's own")
elif HABIT == "spawned":
    nf = forecaster(strategy="ddp_spawn")
elif HABIT == "forked":
    nf = forecaster(strategy="ddp_notebook")
elif HABIT == "saves":
    nf = forecaster(strategy="ddp", callbacks=[GradientAccumulationScheduler({0: 1})])
elif HABIT == "waits":
    nf = NeuralForecast(models=[Waiting(h=12, input_size=24, max_steps=50, mlp_units=[[8, 8]] * 3)], freq="M")

if __name__ == "__main__":
    if HABIT == "nothing":
        sys.exit(0)
    nf.fit(FRAME, val_size=12)
    if HABIT == "exits":
        sys.exit(3)
    elif HABIT in ("raises", "excepthook"):
        raise RuntimeError("a fault of the script's own")
    elif HABIT == "saves":
        nf.save(f"model-of-{RANK}", overwrite=True)
    elif HABIT == "reads":
        input("Go on? ")
    elif HABIT == "forks":
        if os.fork() == 0:
            os._exit(0)
        os.wait()
    elif HABIT == "leaves":
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    elif HABIT == "interrupted" and RANK == 0:
        os.kill(int(sys.argv[2]), signal.SIGINT)
        threading.Event().wait()
    elif HABIT == "endless":
        threading.Event().wait()
    nf.predict()
    print("came to the end", sys.argv, __file__, os.getcwd(), sys.path[0])
