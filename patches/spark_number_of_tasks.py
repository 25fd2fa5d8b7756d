"""Spark starts another number of processes than there are devices.

On several machines there should be as many as machines times devices; what was started was the square of the devices.
With one device each, on two machines, one process trains on half of the series and says nothing; with four devices each
on two machines, eight files are there for sixteen processes. Fixed in 1.7.3 (pull request 1028).
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

FILE = "neuralforecast/common/_base_model.py"

# BaseModel._fit has all of it in one statement
IF_LOCAL = """
if is_local:
    model = self
    trainer = pl.Trainer(**model.trainer_kwargs)
    trainer.fit(model, datamodule=datamodule)
    model.metrics = trainer.callback_metrics
    model.__dict__.pop("_trainer", None)
else:
    assert distributed_config is not None
    from pyspark.ml.torch.distributor import TorchDistributor

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
        import pytorch_lightning as pl

        # we instantiate here to avoid pickling large tensors (weights)
        model = model_cls(**model_params)
        model.val_size = val_size
        model.test_size = test_size
        for arg in ("devices", "num_nodes"):
            trainer_kwargs.pop(arg, None)
        trainer = pl.Trainer(
            strategy="ddp",
            use_distributed_sampler=False,  # to ensure our dataloaders are used as-is
            num_nodes=num_tasks,
            devices=num_proc_per_task,
            **trainer_kwargs,
        )
        trainer.fit(model=model, datamodule=datamodule)
        model.metrics = trainer.callback_metrics
        model.__dict__.pop("_trainer", None)
        return model

    def is_gpu_accelerator(accelerator):
        from pytorch_lightning.accelerators.cuda import CUDAAccelerator

        return (
            accelerator == "gpu"
            or isinstance(accelerator, CUDAAccelerator)
            or (accelerator == "auto" and CUDAAccelerator.is_available())
        )

    local_mode = distributed_config.num_nodes == 1
    if local_mode:
        num_tasks = 1
        num_proc_per_task = distributed_config.devices
    else:
        num_tasks = distributed_config.MACHINES * distributed_config.devices
        num_proc_per_task = 1  # number of GPUs per task
    num_proc = num_tasks * num_proc_per_task
    use_gpu = is_gpu_accelerator(self.trainer_kwargs["accelerator"])
    model = TorchDistributor(
        num_processes=num_proc,
        local_mode=local_mode,
        use_gpu=use_gpu,
    ).run(
        train_fn,
        model_cls=type(self),
        model_params=self.hparams,
        datamodule=datamodule,
        trainer_kwargs=self.trainer_kwargs,
        num_tasks=num_tasks,
        num_proc_per_task=num_proc_per_task,
        val_size=val_size,
        test_size=test_size,
    )
"""

patch = Patch(
    id="spark-number-of-tasks",
    summary="on a Spark cluster of several machines, another number of processes trains than there are devices",
    group="spark",
    model="any",
    upstream="https://github.com/Nixtla/neuralforecast/pull/1028",
    variants={
        ">=1.7.1,<1.7.3": {
            FILE: Rewrite(
                (
                    Change(
                        where="BaseModel._fit",
                        old=IF_LOCAL.replace("MACHINES", "devices"),
                        new=IF_LOCAL.replace("MACHINES", "num_nodes"),
                    ),
                )
            )
        },
    },
    unaffected={
        "<1.7.1": "this release knows no Spark",
        ">=1.7.3": "fixed upstream in 1.7.3, pull request 1028",
    },
    cases=(
        Case(
            "NHITS",
            "one device on each of two machines",
            options={"mlp_units": [[8, 8]] * 3},
            stage="several-tasks",
            launchers=("spark",),
        ),
    ),
)
