"""After a fit in processes that end with it, the model's trajectories are empty.

`train_trajectories` and `valid_trajectories`, the losses of each step, are lists of the model, and `ddp_spawn` and
`ddp_notebook` bring back nothing but weights and metrics from the processes that they start. The patch lets the first
of these processes leave both behind in a temporary file.
"""

from collections.abc import Mapping

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

COMMON = "neuralforecast/common/"
SAVE = "def save(self, path): ..."
VALIDATION_END = "def on_validation_epoch_end(self): ..."

HELPERS = '''
def _fit_and_keep_trajectories(self, fit):
    """Train; also where PL does so in processes of their own, which end with the fit."""
    import json
    import os
    import tempfile
    import uuid

    n_steps, file = len(self.train_trajectories), f"neuralforecast-{uuid.uuid4().hex}.json"
    self._leaves_trajectories = (os.getpid(), file)
    try:
        result = fit()
    finally:
        del self._leaves_trajectories
    file = os.path.join(tempfile.gettempdir(), file) if len(self.train_trajectories) == n_steps else ""
    if os.path.exists(file):
        with open(file) as f:
            for name, trajectory in json.load(f).items():
                setattr(self, name, [tuple(step) for step in trajectory])
        os.remove(file)
    return result

def teardown(self, stage):
    import json
    import os
    import tempfile

    super().teardown(stage)
    parent, file = getattr(self, "_leaves_trajectories", (os.getpid(), None))
    if parent != os.getpid() and self.trainer.local_rank == 0:
        names = ("train_trajectories", "valid_trajectories")
        with open(os.path.join(tempfile.gettempdir(), file), "w") as f:
            json.dump({name: getattr(self, name) for name in names}, f)
'''
WRAPPED = """
def _keeping_trajectories(fit):
    def fit_and_keep(self, *args, **kwargs):
        return self._fit_and_keep_trajectories(lambda: fit(self, *args, **kwargs))

    return fit_and_keep

FIT = _keeping_trajectories(FIT)
"""


def kept_in(base: str, fit: str, beside: str) -> Rewrite:
    """Let `fit` of this base class train through the helpers, which stand before another method."""
    text = HELPERS + WRAPPED.replace("FIT", fit)
    return Rewrite((Change(base, old=beside, new=f"{text}\n{beside}"),))


def in_bases(*names: str) -> Mapping[str, Rewrite]:
    """The same in each base class that models have in this release."""
    return {f"{COMMON}_base_{name}.py": kept_in(f"Base{name.capitalize()}", "fit", SAVE) for name in names}


patch = Patch(
    id="trajectories-after-spawn",
    summary="after ddp_spawn, and in a notebook, the model's training and validation trajectories are empty",
    group="multi-process",
    model="any",
    upstream="not fixed yet: docs/upstream/trajectories-after-spawn.md",
    variants={
        "==1.4.0": in_bases("windows", "recurrent"),
        ">=1.5,<1.7": in_bases("windows", "recurrent", "multivariate"),
        ">=1.7": {f"{COMMON}_base_model.py": kept_in("BaseModel", "_fit", VALIDATION_END)},
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
