"""On Spark, fit fails where the trainer is told its strategy, and where it is not told its accelerator.

neuralforecast tells Lightning its own `strategy` and `use_distributed_sampler` beside those of the user: "Trainer() got
multiple values for keyword argument 'strategy'". From 3.2.0 on, and with `multivariate-all-series` from 3.0.0 on, every
multivariate model comes with a `use_distributed_sampler`. And it looks for an `accelerator` that nobody has named
unless there is a GPU where the driver runs: `KeyError: 'accelerator'`.

What the user says of DDP is kept, but for the way in which it makes processes: that is Spark's business.
"""

from textwrap import indent

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

FILE = "neuralforecast/common/_base_model.py"

POP, POP_ALL = (
    """
for arg in ("devices", "num_nodes"):
    trainer_kwargs.pop(arg, None)
""",
    """
for arg in ("devices", "num_nodes", "use_distributed_sampler"):
    trainer_kwargs.pop(arg, None)
strategy = trainer_kwargs.pop("strategy", None)
if isinstance(strategy, str):
    # The processes are there, and are not to make others
    strategy = strategy.replace("_spawn", "").replace("_fork", "").replace("_notebook", "")
""",
)
TRAINER = """
trainer = pl.Trainer(
    strategy=STRATEGY,
    use_distributed_sampler=False,
    num_nodes=num_tasks,
    devices=num_proc_per_task,
    **trainer_kwargs,
)
"""
STRATEGY, GIVEN_STRATEGY = '"ddp"', 'strategy if strategy not in (None, "auto") else "ddp"'

# The whole of it up to 1.7.2, in BaseModel._fit
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
POP
        trainer = pl.Trainer(
            strategy=STRATEGY,
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
        num_tasks = distributed_config.devices * distributed_config.devices
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


def of_one_statement(pop: str, strategy: str) -> str:
    """BaseModel._fit with these."""
    return IF_LOCAL.replace("STRATEGY", strategy).replace("POP\n", indent(pop.strip("\n"), 8 * " ") + "\n")


LAST_BEFORE = 'self.trainer_kwargs["check_val_every_n_epoch"] = None'

FIT = "BaseModel._fit_distributed"
TRAIN = f"{FIT}.train_fn"
NHITS = {"mlp_units": [[8, 8]] * 3}
ON_SPARK = Case("NHITS", "", stage="predict", launchers=("spark",), requires=("spark-predict-scalers",))

patch = Patch(
    id="spark-trainer-arguments",
    summary="on Spark, fit fails where strategy or use_distributed_sampler is given, or no accelerator",
    symptoms=(
        "got multiple values for keyword argument 'strategy'",
        "got multiple values for keyword argument 'use_distributed_sampler'",
        "KeyError: 'accelerator'",
    ),
    group="spark",
    model="any",
    upstream="not fixed yet: docs/upstream/spark-trainer-arguments.md",
    variants={
        ">=1.7.1,<1.7.3": {
            FILE: Rewrite(
                (
                    Change(
                        where="BaseModel._fit",
                        old=of_one_statement(POP, STRATEGY),
                        new=of_one_statement(POP_ALL, GIVEN_STRATEGY),
                    ),
                    Change(
                        where="BaseModel._fit",
                        old=LAST_BEFORE,
                        new=f"""
{LAST_BEFORE}
if not is_local:
    self.trainer_kwargs.setdefault("accelerator", "auto")
""",
                    ),
                )
            )
        },
        ">=1.7.3": {
            FILE: Rewrite(
                (
                    Change(TRAIN, old=POP, new=POP_ALL),
                    Change(
                        TRAIN,
                        old=TRAINER.replace("STRATEGY", STRATEGY),
                        new=TRAINER.replace("STRATEGY", GIVEN_STRATEGY),
                    ),
                    Change(
                        FIT,
                        old='use_gpu = is_gpu_accelerator(self.trainer_kwargs["accelerator"])',
                        new='use_gpu = is_gpu_accelerator(self.trainer_kwargs.get("accelerator"))',
                    ),
                )
            )
        },
    },
    unaffected={"<1.7.1": "this release knows no Spark"},
    cases=(
        ON_SPARK._replace(config="strategy", options={**NHITS, "strategy": "ddp"}),
        ON_SPARK._replace(config="no accelerator", options={**NHITS, "accelerator": None}),
    ),
)
