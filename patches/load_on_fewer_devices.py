"""A model that was saved where there were more GPUs can be loaded, but not be trained further.

The number of devices is saved along, and Lightning refuses a training on more GPUs than there are. Whoever builds a
model so has asked for them, and should be told; but a model that is loaded has them from another machine. The patch
lets such a model train on those that there are, and says so. What is saved again keeps what it was built with.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

CORE = "neuralforecast/core.py"
CLASS = "class NeuralForecast: ..."
LOADED = "return neuralforecast"
# 1.6.0 trains copies of the models, which it makes here
STATE = 'neuralforecast._fitted = config_dict["_fitted"]'

HELPER = '''
def _on_the_gpus_that_there_are(model):
    """A loaded model is not to be trained on more GPUs than there are here."""
    import warnings

    import torch

    model = getattr(model, "model", model)  # that of HINT
    kwargs, n_gpus = model.trainer_kwargs, torch.cuda.device_count()
    devices = DEVICES
    if n_gpus == 0 or kwargs.get("accelerator") not in (None, "auto", "gpu", "cuda"):
        return
    if isinstance(devices, str) and "," in devices:
        devices = devices.split(",")
    if isinstance(devices, (list, tuple)):
        own = [int(device) for device in devices if str(device).strip()]
        here = [device for device in own if device < n_gpus] or [0]
        n_here = len(here)
    elif str(devices).isdigit():
        own = int(devices)
        here = n_here = min(own, n_gpus)
    else:
        return
    if here == own:
        return
    warnings.warn(
        f"{type(model).__name__} was saved with devices={devices}, and there are "
        f"{n_gpus} GPUs here: it is trained further with devices={here}."
    )
    SET
    if n_here == 1 and kwargs.get("num_nodes", 1) == 1:
        kwargs.pop("strategy", None)
'''
OF_LIGHTNING_2 = HELPER.replace("DEVICES", 'kwargs.get("devices")').replace("SET", 'kwargs["devices"] = here')
# Lightning 1.6.5 has another name for the number of GPUs, which wins over it
OF_LIGHTNING_1 = HELPER.replace("DEVICES", 'kwargs.get("gpus") or kwargs.get("devices")').replace(
    "SET", 'kwargs.pop("gpus", None)\n    kwargs["devices"] = here'
)
EACH = """
for model in neuralforecast.models:
    _on_the_gpus_that_there_are(model)
"""


def helped(helper: str, before: str = LOADED) -> dict[str, Rewrite]:
    """Let `load` ask for no more GPUs than there are, before this statement of it."""
    return {
        CORE: Rewrite(
            (
                Change("", old=CLASS, new=f"{helper}\n{CLASS}"),
                Change("NeuralForecast.load", old=before, new=f"{EACH}{before}"),
            )
        )
    }


patch = Patch(
    id="load-on-fewer-devices",
    summary="a model that was saved where there were more GPUs cannot be trained further",
    symptoms=("You requested gpu",),
    group="multi-process",
    model="any",
    upstream="not fixed yet: docs/upstream/load-on-fewer-devices.md",
    variants={
        ">=1.1,<1.5": helped(OF_LIGHTNING_1),
        ">=1.5,<1.6": helped(OF_LIGHTNING_2),
        "==1.6.0": helped(OF_LIGHTNING_2, before=STATE),
        ">1.6.0": helped(OF_LIGHTNING_2),
    },
    unaffected={"==1.0.0": "this release cannot save"},
    cases=(
        Case("NHITS", "fewer devices", options={"mlp_units": [[8, 8]] * 3}, stage="fewer-devices", releases=">=1.1"),
    ),
)
