import torch


class BaseAuto(pl.LightningModule):
    def _train_tune(self, config_step, cls_model, dataset, val_size, test_size):
        metrics = {"loss": "ptl/val_loss", "train_loss": "train_loss"}

    def _tune_model(self, cls_model, dataset, **kwargs):
        if gpus > 0:
            device_dict = {"gpu": gpus}
        else:
            device_dict = {"cpu": cpus}
