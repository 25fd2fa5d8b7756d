"""In a notebook the first fit on several devices hangs if the kernel has more than one thread.

`ddp_notebook` and `ddp_fork` train in processes that are forked from the process of the notebook. OpenMP, which torch
uses for multithreading, does not survive a fork: computations of `fit` before the fork create a thread pool, for which
the forked processes wait although its threads do not exist there. With the patch, processes that Lightning forks
compute with one thread.

On Linux this is a hang. Users of notebooks also report `process 1 terminated with signal SIGSEGV` (issues 482, 854 and
865 of Nixtla/neuralforecast), which was not reproduced: another cause is that the kernel has used CUDA before.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

COMMON = "neuralforecast/common/"


def limited_in(function: str, model: str = "self", inside: tuple[str, ...] = ()) -> Rewrite:
    """Limit forked processes to one thread, in this function, which trains the model."""
    trainer = f"trainer = pl.Trainer(**{model}.trainer_kwargs)"
    change = Change(function, old=trainer, new=f"{trainer}\nforking.limit_threads(trainer)", inside=inside)
    return Rewrite((change,), imports=("forking",))


MODEL = f"{COMMON}_base_model.py"

patch = Patch(
    id="fork-after-threads",
    summary="in a notebook (ddp_notebook, ddp_fork) fit hangs where there is more than one thread",
    symptoms=("terminated with signal SIGSEGV",),
    group="multi-process",
    model="any",
    upstream="not fixed yet: docs/upstream/fork-after-threads.md",
    variants={
        ">=1.5,<1.7": {
            f"{COMMON}_base_windows.py": limited_in("BaseWindows.fit"),
            f"{COMMON}_base_recurrent.py": limited_in("BaseRecurrent.fit"),
            f"{COMMON}_base_multivariate.py": limited_in("BaseMultivariate.fit"),
        },
        "==1.7.0": {MODEL: limited_in("BaseModel._fit")},
        ">=1.7.1": {MODEL: limited_in("BaseModel._fit", model="model", inside=("if is_local:",))},
    },
    unaffected={"<1.5": "Lightning 1.6, which these releases require, forks no processes"},
    cases=(
        Case(
            "NHITS",
            "several threads",
            options={"mlp_units": [[8, 8]] * 3},
            stage="several-threads",
            launchers=("fork",),
            original_hangs=True,
        ),
    ),
)
