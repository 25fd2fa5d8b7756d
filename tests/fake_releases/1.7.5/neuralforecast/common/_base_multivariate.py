import torch


class BaseMultivariate(BaseModel):
    def __init__(self, h, input_size, **kwargs):
        self.n_series = n_series

    def _create_windows(self, batch, step):
        if step == "train":
            n_windows = windows.shape[2]
            if self.batch_size is not None:
                w_idxs = np.random.choice(
                    n_windows,
                    size=self.batch_size,
                    replace=(n_windows < self.batch_size),
                )
                windows = windows[:, :, w_idxs, :]

    def predict(self, dataset, test_size, **kwargs):
        if (pred_trainer_kwargs.get("accelerator", None) == "gpu") and (
            torch.cuda.device_count() > 1
        ):
            pred_trainer_kwargs["devices"] = [0]
        fcsts = trainer.predict(self, datamodule=datamodule)
