"""A callback that records the number of threads of each rank."""

import faulthandler
import os

import pytorch_lightning as pl
import torch


class ThreadsWriter(pl.Callback):
    """Appends the number of threads of each rank to FOLDER/threads-RANK, one line per training.

    A training that takes more than `deadline` seconds prints a traceback, and its process exits.
    """

    def __init__(self, folder, deadline):
        self.folder = folder
        self.deadline = deadline

    def setup(self, trainer, module, stage):
        if stage == "fit":
            with open(os.path.join(self.folder, f"threads-{trainer.global_rank}"), "a", encoding="utf-8") as file:
                print(torch.get_num_threads(), file=file)
            faulthandler.dump_traceback_later(self.deadline, exit=True)

    def teardown(self, trainer, module, stage):
        faulthandler.cancel_dump_traceback_later()
