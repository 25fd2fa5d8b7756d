"""On Spark, fit fails if the user passes a strategy, or no accelerator.

neuralforecast passes a `strategy` and a `use_distributed_sampler` to Lightning in addition to those of the user:
"Trainer() got multiple values for keyword argument 'strategy'". From 3.2.0 on, and with `multivariate-all-series` from
3.0.0 on, every multivariate model has a `use_distributed_sampler`. And unless the driver has a GPU, it reads an
`accelerator` that was not passed: `KeyError: 'accelerator'`.

The user's options of DDP are kept, except for the launcher: Spark starts the processes.
"""

from collections.abc import Mapping

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

FILE = "neuralforecast/common/_base_model.py"

POP = """
for arg in ("devices", "num_nodes"):
    trainer_kwargs.pop(arg, None)
"""
TRAINER = """
trainer = pl.Trainer(
    strategy={strategy},
    use_distributed_sampler=False,
    num_nodes=num_tasks,
    devices=num_proc_per_task,
    **trainer_kwargs,
)
"""
DDP = TRAINER.format(strategy='"ddp"')
GIVEN = TRAINER.format(strategy="strategy")
USE_GPU = 'use_gpu = is_gpu_accelerator(self.trainer_kwargs["accelerator"])'
MAY_USE_GPU = 'use_gpu = is_gpu_accelerator(self.trainer_kwargs.get("accelerator"))'


TRAIN = """
def train_fn(
    model_cls, model_params, datamodule, trainer_kwargs, num_tasks, num_proc_per_task, val_size, test_size
):
"""


def rewrite(function: str, *inside: str) -> Mapping[str, Rewrite]:
    """Train on Spark, in these statements of this function, with the user's strategy and without an accelerator."""
    changes = (
        Change(function, POP, f"{POP}strategy = spark.pop_strategy(trainer_kwargs)", inside=(*inside, TRAIN.strip())),
        Change(function, DDP, GIVEN, inside=(*inside, TRAIN.strip())),
        Change(function, USE_GPU, MAY_USE_GPU, inside=inside),
    )
    return {FILE: Rewrite(changes, imports=("spark",))}


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
        ">=1.7.1,<1.7.3": rewrite("BaseModel._fit", "if is_local:", "else:"),
        ">=1.7.3": rewrite("BaseModel._fit_distributed"),
    },
    unaffected={"<1.7.1": "this release does not train on Spark"},
    cases=(
        ON_SPARK._replace(config="strategy", options={**NHITS, "strategy": "ddp"}),
        ON_SPARK._replace(config="no accelerator", options={**NHITS, "accelerator": None}),
    ),
)
