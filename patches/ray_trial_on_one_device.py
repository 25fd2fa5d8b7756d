"""A search through ray trains a trial on several devices, which does not work.

By default a trial reserves all GPUs, so that the model trains on all of them by DDP, in processes that Lightning starts
from within an actor of ray: it fails or hangs (issues 1291, 934, 686 of Nixtla/neuralforecast). From 3.2.1 on (pull
request 1572) a trial reserves one, and as many trials as there are GPUs run at once. In every release a trial fails if
the configuration has `num_nodes`, or `devices=2`, which training the best model on two devices requires.

With the patch a trial reserves one GPU and trains on one device, and the best model trains on the devices in the
configuration. A strategy object is passed through unchanged, because it may be able to start processes in a trial.
"""

from collections.abc import Mapping

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

FILE = "neuralforecast/common/_base_auto.py"

MODULES = ("ray_trials",)

RESERVE = """
if gpus > 0:
    device_dict = {"gpu": gpus}
else:
    device_dict = {"cpu": cpus}
"""


def reserve_one(function: str) -> Change:
    """Reserve one GPU for a trial, in this function."""
    return Change(function, old=RESERVE, new=f"gpus = ray_trials.reserve_one_gpu(config, gpus)\n{RESERVE}")


def train_on_one(function: str, metrics: str = '{"loss": "ptl/val_loss"}') -> Change:
    """Train a trial on one device, in this function, which begins with these metrics."""
    begin = f"metrics = {metrics}"
    return Change(function, old=begin, new=f"config_step = ray_trials.single_device_config(config_step)\n{begin}")


def rewrite(*changes: Change) -> Mapping[str, Rewrite]:
    """A codemod with these changes of the base class of Auto models."""
    return {FILE: Rewrite(changes, imports=MODULES)}


TUNE, TRAIN = "BaseAuto._tune_model", "BaseAuto._train_tune"
METRICS_OF_1_7 = '{"loss": "ptl/val_loss", "train_loss": "train_loss"}'

RAY = Case(
    "AutoNHITS",
    "ray",
    options={"mlp_units": [[8, 8]] * 3},
    stage="ray-search",
    launchers=("torchrun", "script"),
    requires=("search-by-one-rank",),
)
TWO = RAY._replace(config="ray, devices=2", options={**RAY.options, "devices": 2}, thorough=True)

patch = Patch(
    id="ray-trial-on-one-device",
    summary="a search through ray trains a trial on several devices, which fails or hangs",
    symptoms=("ActorDiedError", "DistStoreError", "No best trial found for the given metric"),
    ambiguous=("ActorDiedError", "DistStoreError", "No best trial found for the given metric"),
    group="search",
    model="any",
    upstream="fixed in 3.2.1 where the configuration names no devices, else not yet: "
    "docs/upstream/ray-trial-on-one-device.md",
    variants={
        "<1.6": rewrite(reserve_one("tune_model"), train_on_one("train_tune")),
        ">=1.6,<1.7": rewrite(reserve_one(TUNE), train_on_one(TRAIN)),
        ">=1.7,<3.2.1": rewrite(reserve_one(TUNE), train_on_one(TRAIN, METRICS_OF_1_7)),
        ">=3.2.1": rewrite(train_on_one(TRAIN, METRICS_OF_1_7)),
    },
    unaffected={},
    # With Lightning 1 the processes of a trial hang
    cases=(
        RAY._replace(releases=">=1.5,<3.2.1"),
        RAY._replace(releases="<1.5", original_hangs=True),
        TWO._replace(releases=">=1.5"),
        TWO._replace(releases="<1.5", original_hangs=True),
    ),
)
