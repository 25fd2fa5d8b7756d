"""After training on several devices, each has batch norms of its own.

DDP gives all devices the running statistics of the first one before each training step, in which each then adds its own
batch. What the last step has added nobody evens out, unless a validation follows it. So a model with batch
normalization (Informer, PatchTST, TSMixer, RMoK, DeepNPTS) forecasts otherwise on each device, and which of them is
saved hangs on who saves last.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

COMMON = "neuralforecast/common/"


def evened_out(class_: str) -> Rewrite:
    """All devices take the statistics of the first one, as they do before each step."""
    return Rewrite(
        (
            Change(
                where=class_,
                old="def on_fit_start(self): ...",
                new='''
def on_fit_start(self): ...

def on_train_end(self):
    """Every device takes the running statistics of the first one, as before each step."""
    super().on_train_end()
    if self.trainer.world_size == 1 or not torch.distributed.is_initialized():
        return
    for module in self.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            for statistics in module.buffers(recurse=False):
                torch.distributed.broadcast(statistics, 0)
''',
            ),
        )
    )


BY_RANKS = ("torchrun", "script")  # of the others one process is left after a fit
# Three training steps, of which the second is followed by a validation
PATCHTST = {
    "hidden_size": 8,
    "n_heads": 2,
    "linear_hidden_size": 8,
    "encoder_layers": 1,
    "val_check_steps": 2,
}

patch = Patch(
    id="batch-norm-of-one-rank",
    summary="models with batch normalization forecast otherwise on each device",
    group="multi-process",
    model="any",
    upstream="not fixed yet: docs/upstream/batch-norm-of-one-rank.md",
    variants={
        ">=1.5,<1.7": {f"{COMMON}_base_windows.py": evened_out("BaseWindows")},
        ">=1.7": {f"{COMMON}_base_model.py": evened_out("BaseModel")},
    },
    unaffected={"<1.5": "no model of this release has batch normalization"},
    cases=(Case("PatchTST", "batch norm", options=PATCHTST, stage="refit", launchers=BY_RANKS),),
)
