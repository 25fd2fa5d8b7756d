"""After a fit by ddp_spawn or ddp_notebook, the model's trajectories are empty.

`train_trajectories` and `valid_trajectories`, the losses of each step, are lists of the model, and these two train in
processes that end with the training, from which Lightning brings back weights and metrics only. With the patch, rank 0
writes both lists to a temporary file, which the process that launched it reads.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

COMMON = "neuralforecast/common/"
SAVE = "def save(self, path): ..."
VALIDATION_END = "def on_validation_epoch_end(self): ..."
TEARDOWN = """
def teardown(self, stage):
    super().teardown(stage)
    trajectories.write_from_launched_process(self)
"""


def kept_in(class_: str, function: str, model: str, before: str, inside: tuple[str, ...] = ()) -> Rewrite:
    """Keep the trajectories where this function trains the model; the other hook stands before a method."""
    fit = f"trainer.fit({model}, datamodule=datamodule)"
    new = f"with trajectories.kept_after_spawn({model}):\n    {fit}"
    return Rewrite(
        (
            Change(f"{class_}.{function}", old=fit, new=new, inside=inside),
            Change(class_, old=before, new=f"{TEARDOWN}\n{before}"),
        ),
        imports=("trajectories",),
        absent={class_: ("def teardown(self, stage): ...", "def teardown(self, stage=None): ...")},
    )


WINDOWS = {f"{COMMON}_base_windows.py": kept_in("BaseWindows", "fit", "self", before=SAVE)}
RECURRENT = {f"{COMMON}_base_recurrent.py": kept_in("BaseRecurrent", "fit", "self", before=SAVE)}
MULTIVARIATE = {f"{COMMON}_base_multivariate.py": kept_in("BaseMultivariate", "fit", "self", before=SAVE)}
MODEL = f"{COMMON}_base_model.py"

patch = Patch(
    id="trajectories-after-spawn",
    summary="after ddp_spawn, and in a notebook, the model's training and validation trajectories are empty",
    group="multi-process",
    model="any",
    upstream="not fixed yet: docs/upstream/trajectories-after-spawn.md",
    variants={
        "==1.4.0": {**WINDOWS, **RECURRENT},
        ">=1.5,<1.7": {**WINDOWS, **RECURRENT, **MULTIVARIATE},
        "==1.7.0": {MODEL: kept_in("BaseModel", "_fit", "self", before=VALIDATION_END)},
        ">=1.7.1": {MODEL: kept_in("BaseModel", "_fit", "model", before=VALIDATION_END, inside=("if is_local:",))},
    },
    unaffected={"<1.4": "models of this release keep no trajectories"},
    cases=(
        Case(
            "NHITS",
            "trajectories",
            options={"mlp_units": [[8, 8]] * 3, "val_check_steps": 1},
            stage="trajectories",
            launchers=("spawn", "fork"),
            releases=">=1.4",
        ),
    ),
)
