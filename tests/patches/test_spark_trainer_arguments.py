"""On Spark the arguments of the trainer are those of the user."""

from __future__ import annotations

import pytest
from snippets import patched

from nfpatch.codemod import CodemodRefused

BEFORE = """
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
"""

AFTER = """
from neuralforecast._nfpatch import spark
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
            strategy = spark.pop_strategy(trainer_kwargs)
            trainer = pl.Trainer(
                strategy=strategy,
                use_distributed_sampler=False,  # to ensure our dataloaders are used as-is
                num_nodes=num_tasks,
                devices=num_proc_per_task,
                **trainer_kwargs,
            )
        use_gpu = is_gpu_accelerator(self.trainer_kwargs.get("accelerator"))
"""

BEFORE_1_7_2 = """
import torch


class BaseModel(pl.LightningModule):
    def _fit(self, dataset, batch_size, **kwargs):
        if is_local:
            pass
        else:
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
"""

AFTER_1_7_2 = """
from neuralforecast._nfpatch import spark
import torch


class BaseModel(pl.LightningModule):
    def _fit(self, dataset, batch_size, **kwargs):
        if is_local:
            pass
        else:
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
                strategy = spark.pop_strategy(trainer_kwargs)
                trainer = pl.Trainer(
                    strategy=strategy,
                    use_distributed_sampler=False,  # to ensure our dataloaders are used as-is
                    num_nodes=num_tasks,
                    devices=num_proc_per_task,
                    **trainer_kwargs,
                )
            use_gpu = is_gpu_accelerator(self.trainer_kwargs.get("accelerator"))
"""


def test_the_strategy_and_the_accelerator_are_the_users() -> None:
    assert patched("spark-trainer-arguments", "3.3.0", BEFORE) == AFTER


def test_releases_before_1_7_3_train_in_the_same_function() -> None:
    assert patched("spark-trainer-arguments", "1.7.2", BEFORE_1_7_2) == AFTER_1_7_2


def test_a_trainer_with_another_strategy_is_refused() -> None:
    twin = BEFORE.replace('strategy="ddp"', 'strategy="fsdp"')
    with pytest.raises(CodemodRefused):
        patched("spark-trainer-arguments", "3.3.0", twin)
