"""After a fit by ddp_spawn or ddp_notebook, the model's trajectories are empty.

`train_trajectories` and `valid_trajectories`, the losses of each step, are lists of the model. These strategies train
in processes that end with the training, and Lightning copies only weights and metrics back. With the patch, rank 0
writes both lists to a temporary file, which the process that launched it reads.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

COMMON = "neuralforecast/common/"
SET_TEST_SIZE = "def set_test_size(self, test_size): ..."
GET_TEST_SIZE = "def get_test_size(self): ..."
TEARDOWN = """
def teardown(self, stage):
    super().teardown(stage)
    trajectories.write_from_launched_process(self)
"""


def kept_in(
    function: str, *expected: Change, model: str = "self", after: str = GET_TEST_SIZE, inside: tuple[str, ...] = ()
) -> Rewrite:
    """Keep the trajectories in this function, which trains the model; the other hook is added after a method."""
    class_ = function.partition(".")[0]
    fit = f"trainer.fit({model}, datamodule=datamodule)"
    new = f"with trajectories.kept_after_spawn({model}):\n    {fit}"
    return Rewrite(
        (
            Change(function, old=fit, new=new, inside=inside),
            Change(class_, old=after, new=f"{after}\n{TEARDOWN}"),
            *expected,
        ),
        imports=("trajectories",),
        absent={class_: ("def teardown(self, stage): ...", "def teardown(self, stage=None): ...")},
    )


def kept_with_lightning_1(class_: str) -> Rewrite:
    """Keep them in the models of this base class, from 1.4.0 on."""
    return kept_in(
        f"{class_}.fit",
        Change(f"{class_}.__init__", old="self.train_trajectories = []"),
        Change(class_, old="def validation_epoch_end(self, outputs): ..."),
        after=SET_TEST_SIZE,
    )


WINDOWS = f"{COMMON}_base_windows.py"
RECURRENT = f"{COMMON}_base_recurrent.py"
MULTIVARIATE = f"{COMMON}_base_multivariate.py"
MODEL = f"{COMMON}_base_model.py"

patch = Patch(
    id="trajectories-after-spawn",
    summary="after ddp_spawn, and in a notebook, the model's training and validation trajectories are empty",
    group="multi-process",
    model="any",
    upstream="not fixed yet: docs/upstream/trajectories-after-spawn.md",
    variants={
        "==1.4.0": {
            WINDOWS: kept_with_lightning_1("BaseWindows"),
            RECURRENT: kept_with_lightning_1("BaseRecurrent"),
        },
        ">=1.5,<1.7": {
            WINDOWS: kept_in("BaseWindows.fit"),
            RECURRENT: kept_in("BaseRecurrent.fit"),
            MULTIVARIATE: kept_in("BaseMultivariate.fit"),
        },
        "==1.7.0": {MODEL: kept_in("BaseModel._fit")},
        ">=1.7.1": {MODEL: kept_in("BaseModel._fit", model="model", inside=("if is_local:",))},
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
