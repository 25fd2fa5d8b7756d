"""A model that was saved on a machine with more GPUs can be loaded, but not trained further.

The number of devices is saved with the model, and Lightning raises an error if it exceeds the number of GPUs. That is
right for a new model, but the number in a loaded one comes from another machine. With the patch, a loaded model trains
on the available GPUs, with a warning. If it is saved again, the file keeps the original number.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

# 1.6.0 trains copies of the models, made after this statement
FITTED = 'neuralforecast._fitted = config_dict["_fitted"]'
CLAMP = "placement.clamp_devices(neuralforecast.models)"

patch = Patch(
    id="load-on-fewer-devices",
    summary="a model that was saved where there were more GPUs cannot be trained further",
    symptoms=("You requested gpu",),
    group="multi-process",
    model="any",
    upstream="not fixed yet: docs/upstream/load-on-fewer-devices.md",
    variants={
        ">=1.1": {
            "neuralforecast/core.py": Rewrite(
                (Change("NeuralForecast.load", FITTED, f"{FITTED}\n{CLAMP}"),), imports=("placement",)
            )
        }
    },
    unaffected={"==1.0.0": "this release cannot save"},
    cases=(
        Case("NHITS", "fewer devices", options={"mlp_units": [[8, 8]] * 3}, stage="fewer-devices", releases=">=1.1"),
    ),
)
