import torch


class BaseAuto(pl.LightningModule):
    def _train_tune(self, config_step, cls_model, dataset, val_size, test_size):
        metrics = {"loss": "ptl/val_loss", "train_loss": "train_loss"}
