"""Rank 0 searches, and the other ranks receive what it finds."""

from __future__ import annotations

import pytest
from snippets import patched

from nfpatch.codemod import CodemodRefused

BEFORE = """
import torch


class BaseAuto(pl.LightningModule):
    def _train_tune(self, config_step, cls_model, dataset, val_size, test_size):
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
"""

AFTER = """
from neuralforecast._nfpatch import search
import torch


class BaseAuto(pl.LightningModule):
    def _train_tune(self, config_step, cls_model, dataset, val_size, test_size):
        with search.without_launcher_env():
            _ = self._fit_model(
                cls_model=cls_model,
                config=config_step,
                dataset=dataset,
                val_size=val_size,
                test_size=test_size,
            )

    def _tune_model(self, cls_model, dataset, **kwargs):
        ranks = search.start_search(config)
        if ranks.rank > 0:
            return ranks.receive_results()

        train_fn_with_parameters = tune.with_parameters(
            self._train_tune,
            cls_model=cls_model,
            dataset=dataset,
            val_size=val_size,
            test_size=test_size,
        )
        results = ranks.fit_tuner(tuner)

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
        ranks = search.start_search(config, MockTrial(), distributed_config)
        config = ranks.broadcast_config(config)
        cls_model = ranks.sync_model(cls_model)
        study = ranks.create_study(**create_kwargs)
        study = ranks.optimize(study, objective, **optimize_kwargs)

    def _fit_model(self, cls_model, config, **kwargs):
        model = cls_model(**config)
"""

BEFORE_1_6_4 = """
import torch


class BaseAuto(pl.LightningModule):
    def _train_tune(self, config_step, cls_model, dataset, val_size, test_size):
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
    ):
        def objective(trial):
            cfg = config(trial)
        study = optuna.create_study(sampler=sampler, direction="minimize")
        study.optimize(
            objective,
            n_trials=num_samples,
            show_progress_bar=verbose,
        )

    def _fit_model(self, cls_model, config, dataset, val_size, test_size):
        model = cls_model(**config)
"""

AFTER_1_6_4 = """
from neuralforecast._nfpatch import search
import torch


class BaseAuto(pl.LightningModule):
    def _train_tune(self, config_step, cls_model, dataset, val_size, test_size):
        with search.without_launcher_env():
            _ = self._fit_model(
                cls_model=cls_model,
                config=config_step,
                dataset=dataset,
                val_size=val_size,
                test_size=test_size,
            )

    def _tune_model(self, cls_model, dataset, **kwargs):
        ranks = search.start_search(config)
        if ranks.rank > 0:
            return ranks.receive_results()

        train_fn_with_parameters = tune.with_parameters(
            self._train_tune,
            cls_model=cls_model,
            dataset=dataset,
            val_size=val_size,
            test_size=test_size,
        )
        results = ranks.fit_tuner(tuner)

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
    ):
        def objective(trial):
            cfg = config(trial)
        ranks = search.start_search(config, MockTrial())
        config = ranks.broadcast_config(config)
        cls_model = ranks.sync_model(cls_model)
        study = ranks.create_study(sampler=sampler, direction="minimize")
        study = ranks.optimize(
            study,
            objective,
            n_trials=num_samples,
            show_progress_bar=verbose,
        )

    def _fit_model(self, cls_model, config, dataset, val_size, test_size):
        model = cls_model(**config)
"""

BEFORE_1_5_0 = """
import torch


def train_tune(config_step, cls_model, dataset, val_size, test_size):
    model = cls_model(**config_step)
    model.fit(dataset, val_size=val_size, test_size=test_size)


def tune_model(cls_model, dataset, val_size, **kwargs):
    train_fn_with_parameters = tune.with_parameters(
        train_tune,
        cls_model=cls_model,
        dataset=dataset,
        val_size=val_size,
        test_size=test_size,
    )
    results = tuner.fit()
"""

AFTER_1_5_0 = """
from neuralforecast._nfpatch import search
import torch


def train_tune(config_step, cls_model, dataset, val_size, test_size):
    with search.without_launcher_env():
        model = cls_model(**config_step)
        model.fit(dataset, val_size=val_size, test_size=test_size)


def tune_model(cls_model, dataset, val_size, **kwargs):
    ranks = search.start_search(config)
    if ranks.rank > 0:
        return ranks.receive_results()

    train_fn_with_parameters = tune.with_parameters(
        train_tune,
        cls_model=cls_model,
        dataset=dataset,
        val_size=val_size,
        test_size=test_size,
    )
    results = ranks.fit_tuner(tuner)
"""


def test_rank_0_leads_the_search() -> None:
    assert patched("search-by-one-rank", "3.3.0", BEFORE) == AFTER


def test_in_1_6_4_the_study_takes_other_arguments() -> None:
    assert patched("search-by-one-rank", "1.6.4", BEFORE_1_6_4) == AFTER_1_6_4


def test_releases_before_1_6_search_only_through_ray() -> None:
    assert patched("search-by-one-rank", "1.5.0", BEFORE_1_5_0) == AFTER_1_5_0


def test_a_search_that_is_started_differently_is_refused() -> None:
    twin = BEFORE.replace("tuner.fit()", "tuner.restore()")
    with pytest.raises(CodemodRefused):
        patched("search-by-one-rank", "3.3.0", twin)
