import torch


class BaseModel(pl.LightningModule):
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
