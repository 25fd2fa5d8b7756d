import torch


class BaseWindows(BaseModel):
    def __init__(self, h, input_size, **kwargs):
        self.scaler = TemporalNorm(
            scaler_type=scaler_type,
            dim=1,  # Time dimension is 1.
            num_features=1 + len(self.hist_exog_list) + len(self.futr_exog_list),
        )

    def predict(self, dataset, test_size, **kwargs):
        if (pred_trainer_kwargs.get("accelerator", None) == "gpu") and (
            torch.cuda.device_count() > 1
        ):
            pred_trainer_kwargs["devices"] = [0]
        fcsts = trainer.predict(self, datamodule=datamodule)

    def decompose(self, dataset, step_size=1, random_seed=None, **data_module_kwargs):
        trainer = pl.Trainer(**self.trainer_kwargs)
