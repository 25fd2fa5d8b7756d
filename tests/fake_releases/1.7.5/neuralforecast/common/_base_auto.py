import torch


class BaseAuto(pl.LightningModule):
    def _train_tune(self, config_step, cls_model, dataset, val_size, test_size):
        metrics = {"loss": "ptl/val_loss", "train_loss": "train_loss"}
        _ = self._fit_model(
            cls_model=cls_model,
            config=config_step,
            dataset=dataset,
            val_size=val_size,
            test_size=test_size,
        )

    def _tune_model(self, cls_model, dataset, **kwargs):
        train_fn_with_parameters = tune.with_parameters(
            self._train_tune,
            cls_model=cls_model,
            dataset=dataset,
            val_size=val_size,
            test_size=test_size,
        )
        if gpus > 0:
            device_dict = {"gpu": gpus}
        else:
            device_dict = {"cpu": cpus}
        results = tuner.fit()

    def _optuna_tune_model(
        self,
        cls_model,
        dataset,
        val_size,
        test_size,
        verbose,
        num_samples,
        search_alg,
        config,
        distributed_config,
    ):
        def objective(trial):
            user_cfg = config(trial)
        study = optuna.create_study(sampler=sampler, direction="minimize")
        study.optimize(
            objective,
            n_trials=num_samples,
            show_progress_bar=verbose,
            callbacks=self.callbacks,
        )

    def _fit_model(self, cls_model, config, **kwargs):
        model = cls_model(**config)
