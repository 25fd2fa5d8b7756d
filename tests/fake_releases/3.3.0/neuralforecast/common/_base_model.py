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

    def _fit_distributed(self, distributed_config, datamodule, **kwargs):
        def train_fn(
            model_cls,
            model_params,
            datamodule,
            trainer_kwargs,
            num_tasks,
            num_proc_per_task,
            val_size,
            test_size,
        ):
            for arg in ("devices", "num_nodes"):
                trainer_kwargs.pop(arg, None)
            trainer = pl.Trainer(
                strategy="ddp",
                use_distributed_sampler=False,  # to ensure our dataloaders are used as-is
                num_nodes=num_tasks,
                devices=num_proc_per_task,
                **trainer_kwargs,
            )
        use_gpu = is_gpu_accelerator(self.trainer_kwargs["accelerator"])

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
