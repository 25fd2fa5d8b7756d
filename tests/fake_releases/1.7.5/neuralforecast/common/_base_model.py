import torch


class BaseModel(pl.LightningModule):
    def _fit(self, dataset, batch_size, **kwargs):
        val_check_interval = min(self.val_check_steps, self.max_steps)
