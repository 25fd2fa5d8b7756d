"""predict on several devices gives other rows than on one, dies, or waits for ever.

Lightning hands each process the predictions of its own share of the series only, and neuralforecast takes them for all.
Its guard looks for `accelerator="gpu"` alone, and then takes the first GPU in every process, whatever the user's
devices, but leaves the strategy (up to 3.0.2) and the number of nodes as they are (pull requests 391, in 1.4.0, and
1363, in 3.1.0). `decompose` has no guard.

The patch leaves the guard as it is for one process. Where the trainer's arguments are for several, every process
predicts all series by itself, on its own one of their devices, as one process with these weights does.
"""

from collections.abc import Mapping

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

COMMON = "neuralforecast/common/"
WINDOWS, RECURRENT, MULTIVARIATE, MODEL = (
    f"{COMMON}_base_{name}.py" for name in ("windows", "recurrent", "multivariate", "model")
)

HELPER = '''
def _one_process_kwargs(self):
    """Changes to `trainer_kwargs` for this process alone, none if there is no other.

        Of several processes PL hands each the predictions for its own share of the
        series. So each predicts them all, on its own one of their devices, or on
        any device if the model comes from a machine with more of them.
        """
    import os

    devices = self.trainer_kwargs.get("devices")
    accelerator = self.trainer_kwargs.get("accelerator")
    n_gpus = 0
    if accelerator in (None, "auto", "gpu", "cuda"):
        n_gpus = torch.cuda.device_count()
    if devices in (None, "auto", -1, "-1"):
        devices = n_gpus
    if isinstance(devices, str) and "," in devices:
        devices = [int(device) for device in devices.split(",") if device.strip()]
    elif isinstance(devices, (int, str)):
        devices = range(int(devices))
    if len(devices) < 2 and self.trainer_kwargs.get("num_nodes", 1) == 1:
        return {}
    if n_gpus:
        launchers = ("LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK")
        ranks = [os.environ[name] for name in launchers if name in os.environ]
        local_rank = int(ranks[0]) if ranks else 0
        own = devices[local_rank % len(devices)] if devices else local_rank
        devices = [own if own < n_gpus else local_rank % n_gpus]
    else:
        devices = 1
    return {"devices": devices, "strategy": "auto", "num_nodes": 1}
'''

# Lightning 1.6.5: other names for the number of devices, which win over it, and no strategy "auto"
HELPER_OF_LIGHTNING_1 = HELPER.replace(
    '    devices = self.trainer_kwargs.get("devices")\n',
    '    names = ("num_processes", "gpus", "devices")\n'
    "    given = [self.trainer_kwargs.get(name) for name in names]\n"
    "    devices = next((value for value in given if value), None)\n",
).replace(
    '    return {"devices": devices, "strategy": "auto", "num_nodes": 1}',
    "    one = dict.fromkeys(names)  # the old names of `devices` win over it\n"
    '    return {**one, "devices": devices, "strategy": None, "num_nodes": 1}',
)

GUARD = """
if (pred_trainer_kwargs.get("accelerator", None) == "gpu") and (torch.cuda.device_count() > 1):
    pred_trainer_kwargs["devices"] = [0]
"""
GUARD_WITH_STRATEGY = f'{GUARD}    pred_trainer_kwargs["strategy"] = "auto"\n'

TRAINER = "trainer = pl.Trainer(**self.trainer_kwargs)"
TRAINER_ALONE = "trainer = pl.Trainer(**{**self.trainer_kwargs, **self._one_process_kwargs()})"


def define(class_: str, beside: str, helper: str = HELPER) -> Change:
    """Add the helper, as a method, behind another one."""
    return Change(class_, old=f"{beside}: ...", new=f"{beside}: ...\n{helper}")


def follow(class_: str, guard: str = GUARD) -> Change:
    """Let each process predict by itself, after the guard."""
    then = "# Of several processes each predicts by itself\npred_trainer_kwargs.update(self._one_process_kwargs())\n"
    return Change(f"{class_}.predict", old=guard, new=guard + then)


def alone(function: str) -> Change:
    """Let each process predict by itself where there is no guard."""
    return Change(function, old=TRAINER, new=TRAINER_ALONE)


DECOMPOSE = alone("BaseWindows.decompose")
SET_TEST_SIZE = "def set_test_size(self, test_size)"
GET_TEST_SIZE = "def get_test_size(self)"
PREDICT_OF_1_0 = "def predict(self, dataset, step_size=1, **data_kwargs)"


def unguarded(beside: str) -> Mapping[str, Rewrite]:
    return {
        WINDOWS: Rewrite(
            (define("BaseWindows", beside, HELPER_OF_LIGHTNING_1), alone("BaseWindows.predict"), DECOMPOSE)
        ),
        RECURRENT: Rewrite((define("BaseRecurrent", beside, HELPER_OF_LIGHTNING_1), alone("BaseRecurrent.predict"))),
    }


def guarded(helper: str) -> Mapping[str, Rewrite]:
    return {
        WINDOWS: Rewrite((define("BaseWindows", SET_TEST_SIZE, helper), follow("BaseWindows"), DECOMPOSE)),
        RECURRENT: Rewrite((define("BaseRecurrent", SET_TEST_SIZE, helper), follow("BaseRecurrent"))),
    }


def of_base_model(guard: str) -> Mapping[str, Rewrite]:
    changes = (define("BaseModel", GET_TEST_SIZE), follow("BaseModel", guard), alone("BaseModel.decompose"))
    return {MODEL: Rewrite(changes)}


NHITS = {"mlp_units": [[8, 8], [8, 8], [8, 8]]}
GRU = {"encoder_hidden_size": 8, "decoder_hidden_size": 8}

patch = Patch(
    id="predict-on-one-device",
    summary="predict on several devices gives other rows than on one, or dies",
    symptoms=(
        "could not broadcast input array from shape",
        "list index out of range",
        "argument 'tensors' (position 1) must be tuple of Tensors, not NoneType",
        "Last element of indptr must be equal to the size of data",
        "'NoneType' object is not iterable",
        "accelerator set through both strategy class and accelerator flag, choose one",
    ),
    group="multi-process",
    model="any",
    upstream="not fixed yet: docs/upstream/predict-on-one-device.md",
    variants={
        "==1.0.0": unguarded(PREDICT_OF_1_0),
        ">=1.1.0,<1.4.0": unguarded(SET_TEST_SIZE),
        "==1.4.0": guarded(HELPER_OF_LIGHTNING_1),
        ">=1.5.0,<1.7.0": {
            **guarded(HELPER),
            MULTIVARIATE: Rewrite((define("BaseMultivariate", SET_TEST_SIZE), follow("BaseMultivariate"))),
        },
        ">=1.7.0,<3.0.0": {
            MODEL: Rewrite((define("BaseModel", GET_TEST_SIZE),)),
            WINDOWS: Rewrite((follow("BaseWindows"), DECOMPOSE)),
            RECURRENT: Rewrite((follow("BaseRecurrent"),)),
            MULTIVARIATE: Rewrite((follow("BaseMultivariate"),)),
        },
        ">=3.0.0,<3.1.0": of_base_model(GUARD),
        ">=3.1.0": of_base_model(GUARD_WITH_STRATEGY),
    },
    unaffected={},
    cases=(
        Case("NHITS", "predict", options=NHITS, stage="predict"),
        Case("GRU", "predict", options=GRU, stage="predict", thorough=True, releases=">=1.1"),
        Case("NHITS", "load, predict", options=NHITS, stage="load", thorough=True, releases=">=1.7.1"),
        Case(
            "NHITS",
            "predict_insample",
            options=NHITS,
            stage="insample",
            thorough=True,
            original_hangs=True,
            releases=">=1.5",
        ),
        Case("NHITS", "cross_validation", options=NHITS, stage="cross-validation", thorough=True, original_hangs=True),
    ),
)
