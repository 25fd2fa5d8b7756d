"""After training on several processes, saving ends with errors or half-written files.

Up to 3.1.4 all processes write into the same folder, and one deletes what the other has written; from 3.1.5 on (pull
request 1460) only the first one writes, but nobody waits for it, so that a load right afterwards finds nothing or half
of the model. No process may wait for the others, because the user may have let only one of them save.

The patch lets each process write all files apart and then put them, whole, over those of the others, which are the
same; what an older save has left goes last. Whether the folder was empty, each learns from the first one that came to
save there, through the store of the process group: that is no collective call, and the first one waits for nobody.
"""

from collections.abc import Mapping

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

CORE = "neuralforecast/core.py"
COMMON = "neuralforecast/common/"
WINDOWS, RECURRENT, MULTIVARIATE, MODEL = (
    f"{COMMON}_base_{name}.py" for name in ("windows", "recurrent", "multivariate", "model")
)

HELPER = '''
def _saved_among_others(self, path, model_index, save_dataset, overwrite):
    """Save as one of several processes; False if there is only this one.

        The others may save the same at the same time, later or not at all, so none of
        them waits: each writes all files apart and then puts them, whole, in place.
        """
    import os
    import tempfile

    import torch.distributed as dist
    from fsspec.implementations.local import LocalFileSystem

    is_one_of_several = (
        dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    )
    if not is_one_of_several or getattr(self, "_saves_apart", False):
        return False

    fs, folder = fsspec.core.url_to_fs(path)
    before = fs.ls(folder, detail=False) if fs.exists(folder) else []
    before = {file.rstrip("/").split("/")[-1]: file for file in before}
    before = {k: v for k, v in before.items() if not k.startswith(".saving-")}

    # Files in the folder may be those of another process by now. What counts is
    # what the first one has found that came for this call of theirs.
    try:
        store = dist.distributed_c10d._get_default_store()
        call = store.add(f"neuralforecast/save/{folder}/{dist.get_rank()}", 1)
        key = f"neuralforecast/save/{folder}/call {call}"
        if store.add(key, 1) == 1:
            store.set(f"{key} was empty", str(not before))
        was_empty = store.get(f"{key} was empty") == b"True"
    except RuntimeError:
        # The process that holds the store has ended: its files are not to be touched
        if before and not overwrite:
            return True
        was_empty = not before
    if not was_empty and not overwrite:
        raise Exception(
            "Directory is not empty. Set `overwrite=True` to overwrite files."
        )

    fs.makedirs(folder, exist_ok=True)
    is_local = isinstance(fs, LocalFileSystem)
    where = folder if is_local else None
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=where) as apart:
        self._saves_apart = True
        try:
            self.save(apart, model_index, save_dataset)
        finally:
            del self._saves_apart
        files = os.listdir(apart)
        for file in files:
            if is_local:
                os.replace(f"{apart}/{file}", f"{folder}/{file}")
            else:
                fs.put_file(f"{apart}/{file}", f"{folder}/{file}")
    if overwrite:
        for name in before.keys() - set(files):
            try:
                fs.rm(before[name], recursive=True)
            except FileNotFoundError:
                pass  # another process was faster
    return True
'''

# Up to 1.6.4 a path is always one of this machine, be it `s3://bucket`, and core.py does not import fsspec
HELPER_WITHOUT_FSSPEC = HELPER.replace(
    "    fs, folder = fsspec.core.url_to_fs(path)", "    fs, folder = LocalFileSystem(), os.path.abspath(path)"
)

CLASS, SAVE = "NeuralForecast", "NeuralForecast.save"
SIGNATURE = """
def save(self, path: str, model_index: Optional[List] = None, save_dataset: bool = True, overwrite: bool = False): ...
"""
NORMALIZE = """
if path[-1] == "/":
    path = path[:-1]
"""
AMONG_OTHERS = f"""
{NORMALIZE}
if self._saved_among_others(path, model_index, save_dataset, overwrite):
    return
"""
ONLY_RANK_0 = """
try:
    import torch.distributed as dist

    if dist.is_initialized() and dist.get_rank() != 0:
        return
except (ImportError, RuntimeError):
    pass
"""
EACH_RANK = Change(SAVE, old=ONLY_RANK_0, new="")


def core(helper: str, *more: Change) -> Rewrite:
    return Rewrite(
        (Change(CLASS, old=SIGNATURE, new=f"{SIGNATURE}{helper}"), *more, Change(SAVE, old=NORMALIZE, new=AMONG_OTHERS))
    )


# A model by itself. Lightning's checkpoint: only the first process writes it, and waits for the others. After a fit in
# processes that have ended with it (ddp_spawn, ddp_notebook) there is no trainer here that could write it.
CHECKPOINT = "self.trainer.save_checkpoint(path)"
CHECKPOINT_BY_EACH = """
# Lightning 1 knows no _trainer
trainer = self._trainer if hasattr(self, "_trainer") else self.trainer
if trainer is None and self.trainer_kwargs.get("devices", 1) == 1:
    trainer = self.trainer
elif trainer is None:
    # It was trained in processes that have ended
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False
    )
    trainer.strategy.connect(self)
if trainer.world_size == 1 or "://" in path:
    trainer.save_checkpoint(path)
    return
import os

# The same, but every process writes it, and none waits for the others
checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
apart = f"{path}.{trainer.global_rank}"
trainer.strategy.checkpoint_io.save_checkpoint(checkpoint, apart)
os.replace(apart, path)
"""


def checkpoint(class_: str) -> Rewrite:
    return Rewrite((Change(f"{class_}.save", old=CHECKPOINT, new=CHECKPOINT_BY_EACH),))


# What has a model inside leaves it to the model, as from 1.7.1 on
INNER = Change("HINT.save", old="self.model.trainer.save_checkpoint(path)", new="self.model.save(path)")
OF_AUTO: Mapping[str, Rewrite] = {f"{COMMON}_base_auto.py": Rewrite((INNER._replace(where="BaseAuto.save"),))}
OF_AUTO_AND_HINT: Mapping[str, Rewrite] = {**OF_AUTO, "neuralforecast/models/hint.py": Rewrite((INNER,))}


def file_of_model(body: str) -> Rewrite:
    old = f'with fsspec.open(path, "wb") as f:\n    {body}\n'
    new = f"""
import os

# Other processes may save the same, so the file is put in its place whole
apart, dist = path, torch.distributed
if dist.is_available() and dist.is_initialized() and "://" not in str(path):
    apart = f"{{path}}.{{dist.get_rank()}}" if dist.get_world_size() > 1 else path
with fsspec.open(apart, "wb") as f:
    {body}
if apart != path:
    os.replace(apart, path)
"""
    return Rewrite((Change("BaseModel.save", old=old, new=new),))


STATE = file_of_model("torch.save({'hyper_parameters': self.hparams, 'state_dict': self.state_dict()}, f)")
STATE_COPIED = file_of_model("torch.save({'hyper_parameters': hparams, 'state_dict': self.state_dict()}, f)")
SERIALIZED = file_of_model("f.write(self.serialize())")

OF_1_1: Mapping[str, Rewrite] = {
    CORE: core(HELPER_WITHOUT_FSSPEC),
    WINDOWS: checkpoint("BaseWindows"),
    RECURRENT: checkpoint("BaseRecurrent"),
    **OF_AUTO,
}

SAVE_AND_LOAD = Case(
    "NHITS",
    "save, load, predict",
    options={"mlp_units": [[8, 8], [8, 8], [8, 8]]},
    stage="save",
    launchers=("torchrun", "script"),  # of the others one process is left after a fit
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
    group="multi-process",
    model="any",
    upstream="not fixed yet: docs/upstream/save-by-one-rank.md",
    variants={
        ">=1.1.0,<1.5.0": OF_1_1,
        ">=1.5.0,<1.7.0": {**OF_1_1, MULTIVARIATE: checkpoint("BaseMultivariate"), **OF_AUTO_AND_HINT},
        "==1.7.0": {CORE: core(HELPER), MODEL: checkpoint("BaseModel"), **OF_AUTO_AND_HINT},
        ">=1.7.1,<3.1.5": {CORE: core(HELPER), MODEL: STATE},
        "==3.1.5": {CORE: core(HELPER, EACH_RANK), MODEL: STATE},
        ">=3.1.6,<3.3.0": {CORE: core(HELPER, EACH_RANK), MODEL: STATE_COPIED},
        ">=3.3.0": {CORE: core(HELPER, EACH_RANK), MODEL: SERIALIZED},
    },
    unaffected={"==1.0.0": "this release cannot save"},
    cases=(
        SAVE_AND_LOAD._replace(releases=">=1.1,<1.5"),
        # whoever writes Lightning's checkpoint first waits for the others, who may have failed
        SAVE_AND_LOAD._replace(releases=">=1.5,<1.7.1", original_hangs=True),
        SAVE_AND_LOAD._replace(releases=">=1.7.1"),
    ),
)
