"""A `valid_loss` of its own with parameters gets no gradient.

IQLoss and HuberIQLoss have layers. Where a model is validated by another one than it is trained with, only the
validation uses its layers. A search through Optuna makes two of one when it trains the best model (3.1.9 - 3.3.0).

The patch trains them as little as before, but says so. What is frozen is a copy: the user may train another model with
the one that was handed over.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

FILE = "neuralforecast/common/_base_model.py"

OLD = """
if valid_loss is None:
    self.valid_loss = loss
else:
    self.valid_loss = valid_loss
"""
NEW = f"""{OLD}
# Only the validation would use its layers, which no gradient reaches
parameters = getattr(self.valid_loss, "parameters", list)()
has_layers = any(p.requires_grad for p in parameters)
if has_layers and self.valid_loss is not loss:
    self.valid_loss = deepcopy(valid_loss).requires_grad_(False)
"""

patch = Patch(
    id="valid-loss-parameters",
    summary="a valid_loss of its own with layers (IQLoss) gets no gradient",
    group="unused-parameters",
    model="any",
    upstream="not fixed yet: docs/upstream/valid-loss-parameters.md",
    variants={">=1.7.3": {FILE: Rewrite((Change("BaseModel.__init__", old=OLD, new=NEW),))}},
    unaffected={"<1.7.3": "no loss of this release has parameters that are trained"},
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
