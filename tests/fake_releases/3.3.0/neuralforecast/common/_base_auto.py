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
        time_budget,
    ):
        def objective(trial):
            user_cfg = config(trial)
        study = optuna.create_study(**create_kwargs)
        study.optimize(objective, **optimize_kwargs)

    def _fit_model(self, cls_model, config, **kwargs):
        model = cls_model(**config)
