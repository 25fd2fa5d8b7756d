"""A `valid_loss` with layers that is not the training loss gets no gradient.

IQLoss and HuberIQLoss have layers. If a model is validated with another loss than it is trained with, only the
validation uses the layers of that loss. A search through Optuna makes two losses of one when it trains the best model
(3.1.9 - 3.3.0).

The patch freezes these layers, which are not trained anyway. It freezes a copy, because the user may train another
model with the loss that was passed.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

FREEZE = Change(
    "BaseModel.__init__",
    old="self.valid_loss = valid_loss",
    new="self.valid_loss = validation.freeze_layers(valid_loss, loss)",
    inside=("if valid_loss is None:", "else:"),
)

patch = Patch(
    id="valid-loss-parameters",
    summary="a valid_loss with layers (IQLoss) that is not the training loss gets no gradient",
    group="unused-parameters",
    model="any",
    upstream="not fixed yet: docs/upstream/valid-loss-parameters.md",
    variants={">=1.7.3": {"neuralforecast/common/_base_model.py": Rewrite((FREEZE,), imports=("validation",))}},
    unaffected={"<1.7.3": "no loss of this release has parameters that are trained"},
    unaffected_code={
        "no loss of this source has parameters that are trained": {
            "neuralforecast/losses/pytorch.py": Rewrite((), absent={"": ("class IQLoss(QuantileLoss): ...",)})
        }
    },
    unused_parameters=("valid_loss.quantile_layer.*", "valid_loss.output_layer.*"),
    cases=(
        Case("NHITS", "IQLoss, valid_loss", "IQLoss", options={"mlp_units": [[8, 8]] * 3, "valid_loss": "IQLoss"}),
        Case(
            "TFT",
            "HuberIQLoss, valid_loss",
            "HuberIQLoss",
            options={"hidden_size": 4, "n_head": 1, "valid_loss": "HuberIQLoss"},
            thorough=True,
            releases=">=3",
        ),
    ),
)
