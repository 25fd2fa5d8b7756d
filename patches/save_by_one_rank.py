"""After training on several processes, saving fails or leaves half-written files.

Up to 3.1.4 all ranks write into the same folder, and one deletes what another has written; from 3.1.5 on (pull request
1460) only rank 0 writes, but no rank waits for it, so that a load right afterwards finds nothing or half of the model.
No collective call can be used, because a script may save on one rank only.

With the patch the first rank of a node writes, to a temporary directory, and then renames the files into place; stale
files of an earlier save are removed last. A rank that saves later waits until they are complete, up to a deadline. The
store of the process group records which rank is the first, and whether it found the folder empty, so the first rank
does not wait.
"""

from collections.abc import Mapping

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

CORE = "neuralforecast/core.py"
COMMON = "neuralforecast/common/"
WINDOWS, RECURRENT, MULTIVARIATE, MODEL = (
    f"{COMMON}_base_{name}.py" for name in ("windows", "recurrent", "multivariate", "model")
)
MODULES = ("saving",)

SAVE = "NeuralForecast.save"
SIGNATURE = """
def save(self, path: str, model_index: Optional[List] = None, save_dataset: bool = True, overwrite: bool = False): ...
"""
NORMALIZE = """
if path[-1] == "/":
    path = path[:-1]
"""
ARGUMENTS = "self, path, model_index, save_dataset, overwrite"
# From 3.1.5 on; also used if the ranks have no store
ONLY_RANK_0 = """
try:
    import torch.distributed as dist

    if dist.is_initialized() and dist.get_rank() != 0:
        return
except (ImportError, RuntimeError):
    pass
"""
EACH_RANK = Change(SAVE, old=ONLY_RANK_0, new="if saving.is_left_to_rank_0():\n    return")


def core(condition: str, *more: Change) -> Mapping[str, Rewrite]:
    """Let the ranks save the whole forecaster; the function returns if the hook has saved it.

    All ranks reach the hook: in releases where only rank 0 does, the other changes allow that.
    """
    changes = (
        Change("NeuralForecast", old=SIGNATURE),
        *more,
        Change(SAVE, old=NORMALIZE, new=f"{NORMALIZE}if {condition}:\n    return"),
    )
    absent = {} if EACH_RANK in more else {SAVE: (ONLY_RANK_0,)}
    return {CORE: Rewrite(changes, imports=MODULES, absent=absent)}


# Up to 1.6.4 every path is local, even `s3://bucket`; up to 1.7.0 other files stay in the folder
LOCAL_FILES = core(f"saving.save_local_files({ARGUMENTS})")
OTHERS_STAY = core(f"saving.save_from_all_ranks(\n    {ARGUMENTS}, clears_folder=False\n)")
CLEARED = f"saving.save_from_all_ranks({ARGUMENTS})"


# A model by itself. Lightning's checkpoint: only rank 0 writes it, and waits for the others. After a fit in processes
# that have ended (ddp_spawn, ddp_notebook) there is no trainer that could write it.
def checkpoint(class_: str) -> Rewrite:
    """Let each rank write the checkpoint of a model of this class."""
    old = "self.trainer.save_checkpoint(path)"
    return Rewrite((Change(f"{class_}.save", old=old, new="saving.save_checkpoint(self, path)"),), imports=MODULES)


# A model that contains another lets that one save itself, as upstream does from 1.7.1 on
INNER = Change("HINT.save", old="self.model.trainer.save_checkpoint(path)", new="self.model.save(path)")
OF_AUTO: Mapping[str, Rewrite] = {f"{COMMON}_base_auto.py": Rewrite((INNER._replace(where="BaseAuto.save"),))}
OF_AUTO_AND_HINT: Mapping[str, Rewrite] = {**OF_AUTO, "neuralforecast/models/hint.py": Rewrite((INNER,))}


def model_file(body: str) -> Mapping[str, Rewrite]:
    """Let each rank write the file of a model atomically; from 1.7.1 on the model writes it, with this statement."""
    old, new = (f"with {head} as f:\n    {body}" for head in ('fsspec.open(path, "wb")', "saving.open_atomic(path)"))
    return {MODEL: Rewrite((Change("BaseModel.save", old, new),), imports=MODULES)}


STATE = model_file('torch.save({"hyper_parameters": self.hparams, "state_dict": self.state_dict()}, f)')
STATE_COPIED = model_file('torch.save({"hyper_parameters": hparams, "state_dict": self.state_dict()}, f)')
SERIALIZED = model_file("f.write(self.serialize())")

OF_1_1: Mapping[str, Rewrite] = {
    **LOCAL_FILES,
    WINDOWS: checkpoint("BaseWindows"),
    RECURRENT: checkpoint("BaseRecurrent"),
    **OF_AUTO,
}

SAVE_AND_LOAD = Case(
    "NHITS",
    "save, load, predict",
    options={"mlp_units": [[8, 8], [8, 8], [8, 8]]},
    stage="save",
    launchers=("torchrun", "script"),  # with other launchers one process is left
)

patch = Patch(
    id="save-by-one-rank",
    summary="save, or a load right after it, fails on several devices",
    symptoms=(
        "Directory is not empty. Set `overwrite=True` to overwrite files.",
        "Directory not empty",
        "No model found in directory",
        "FileExistsError",
        "EOFError: Ran out of input",
        "PytorchStreamReader failed reading zip archive",
        "FileNotFoundError",
    ),
    ambiguous=(
        "Directory is not empty. Set `overwrite=True` to overwrite files.",
        "No model found in directory",
        "FileExistsError",
        "EOFError: Ran out of input",
        "PytorchStreamReader failed reading zip archive",
        "FileNotFoundError",
    ),
    group="multi-process",
    model="any",
    upstream="not fixed yet: docs/upstream/save-by-one-rank.md",
    variants={
        ">=1.1.0,<1.5.0": OF_1_1,
        ">=1.5.0,<1.7.0": {**OF_1_1, MULTIVARIATE: checkpoint("BaseMultivariate"), **OF_AUTO_AND_HINT},
        "==1.7.0": {**OTHERS_STAY, MODEL: checkpoint("BaseModel"), **OF_AUTO_AND_HINT},
        ">=1.7.1,<3.1.5": {**core(CLEARED), **STATE},
        "==3.1.5": {**core(CLEARED, EACH_RANK), **STATE},
        ">=3.1.6,<3.3.0": {**core(CLEARED, EACH_RANK), **STATE_COPIED},
        ">=3.3.0": {**core(CLEARED, EACH_RANK), **SERIALIZED},
    },
    unaffected={"==1.0.0": "this release cannot save"},
    cases=(
        SAVE_AND_LOAD._replace(releases=">=1.1,<1.5"),
        # the rank that writes Lightning's checkpoint waits for the others, which may have failed
        SAVE_AND_LOAD._replace(releases=">=1.5,<1.7.1", original_hangs=True),
        SAVE_AND_LOAD._replace(releases=">=1.7.1"),
    ),
)
