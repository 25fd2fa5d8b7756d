"""Spark starts a wrong number of processes.

There should be as many as nodes times devices per node, but the square of the devices is started. With one device on
each of two machines, one process trains on half of the series, without any message; with four devices on each of two
machines, there are eight files for sixteen processes. Fixed in 1.7.3 (pull request 1028).
"""

from nfpatch.catalog import ALREADY_FIXED, Case, Patch
from nfpatch.codemod import Change, Rewrite

FILE = "neuralforecast/common/_base_model.py"

MODES = ("if is_local:", "else:", "if local_mode:", "else:")

patch = Patch(
    id="spark-number-of-tasks",
    summary="on a Spark cluster of several machines, the number of processes differs from that of the devices",
    group="spark",
    model="any",
    upstream="https://github.com/Nixtla/neuralforecast/pull/1028",
    variants={
        ">=1.7.1,<1.7.3": {
            FILE: Rewrite(
                (
                    Change(
                        where="BaseModel._fit",
                        old="num_tasks = distributed_config.devices * distributed_config.devices",
                        new="num_tasks = distributed_config.num_nodes * distributed_config.devices",
                        inside=MODES,
                    ),
                )
            )
        },
    },
    unaffected={
        "<1.7.1": "this release does not train on Spark",
        ">=1.7.3": "fixed upstream in 1.7.3, pull request 1028",
    },
    unaffected_code={
        ALREADY_FIXED: {
            FILE: Rewrite(
                (
                    Change(
                        "BaseModel._fit_distributed",
                        old="num_tasks = distributed_config.num_nodes * distributed_config.devices",
                        inside=("if local_mode:", "else:"),
                    ),
                )
            )
        },
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
