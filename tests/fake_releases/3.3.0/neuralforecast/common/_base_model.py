import torch


class BaseModel(pl.LightningModule):
    def __init__(self, h, input_size, **kwargs):
        self.scaler = TemporalNorm(
            scaler_type=scaler_type,
            dim=1,  # Time dimension is 1.
            # Categorical features bypass the scaler
            num_features=1
            + (len(self.hist_exog_list) - len(self.hist_cat_exog_list))
            + (len(self.futr_exog_list) - len(self.futr_cat_exog_list)),
        )

    def _fit(self, dataset, batch_size, **kwargs):
        val_check_interval = min(self.val_check_steps, self.max_steps)

    def fit(self, dataset, val_size, **kwargs):
        return self._fit(
            dataset=dataset,
            batch_size=self.batch_size,
            valid_batch_size=self.valid_batch_size,
            val_size=val_size,
            test_size=test_size,
            random_seed=random_seed,
            distributed_config=distributed_config,
        )

    def predict(self, dataset, test_size, **kwargs):
        if (pred_trainer_kwargs.get("accelerator", None) == "gpu") and (
            torch.cuda.device_count() > 1
        ):
            pred_trainer_kwargs["devices"] = [0]
            pred_trainer_kwargs["strategy"] = "auto"
        if self.explain:
            pass
        else:
            fcsts = trainer.predict(self, datamodule=datamodule)

    def decompose(self, dataset, step_size, **kwargs):
        trainer = pl.Trainer(**self.trainer_kwargs)
