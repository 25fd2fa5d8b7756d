"""A search through ray lets a trial train on several devices, which it cannot.

By default a trial reserves all GPUs, so that the model trains on all of them by DDP, in processes that Lightning starts
from within an actor of ray: it dies or waits for ever (issues 1291, 934, 686 of Nixtla/neuralforecast). From 3.2.1 on
(pull request 1572) a trial reserves one, and as many trials as there are GPUs run beside each other. In every release
it dies where the configuration says `devices=2`, as it must for the best model to be trained on two, or `num_nodes`.

With the patch a trial reserves one GPU and trains on one device, and the best model on those that the configuration
says. A strategy object is taken for one that can start in a trial, and is left alone.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

FILE = "neuralforecast/common/_base_auto.py"

RESERVE = """
if gpus > 0:
    device_dict = {"gpu": gpus}
else:
    device_dict = {"cpu": cpus}
"""
RESERVE_ONE = f"""
if isinstance(config.get("strategy"), (str, type(None))):
    # PL's processes cannot start in a trial, which therefore trains on one device
    gpus = min(1, gpus)
{RESERVE}
"""
ON_ONE = """
if isinstance(config_step.get("strategy"), (str, type(None))):
    # PL's processes cannot start in a trial, which therefore trains on one device
    config_step = {k: v for k, v in config_step.items() if k != "num_nodes"}
    if config_step.get("devices") is not None or torch.cuda.device_count() > 1:
        config_step["devices"] = 1
    for_a_fit = "ddp_spawn", "ddp_fork", "ddp_notebook"
    if str(config_step.get("strategy")).startswith(for_a_fit):
        del config_step["strategy"]
"""


def reserve_one(function: str) -> Change:
    """Reserve one GPU for a trial."""
    return Change(function, old=RESERVE, new=RESERVE_ONE)


def train_on_one(function: str, metrics: str = '{"loss": "ptl/val_loss"}') -> Change:
    """Train a trial on one device, in this function, which begins with these metrics."""
    begin = f"metrics = {metrics}"
    return Change(function, old=begin, new=f"{ON_ONE}\n{begin}")


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
    summary="a search through ray trains a trial on several devices, which dies or waits for ever",
    symptoms=("ActorDiedError", "DistStoreError", "No best trial found for the given metric"),
    group="search",
    model="any",
    upstream="fixed in 3.2.1 where the configuration names no devices, else not yet: "
    "docs/upstream/ray-trial-on-one-device.md",
    variants={
        "<1.6": {FILE: Rewrite((reserve_one("tune_model"), train_on_one("train_tune")))},
        ">=1.6,<1.7": {FILE: Rewrite((reserve_one(TUNE), train_on_one(TRAIN)))},
        ">=1.7,<3.2.1": {FILE: Rewrite((reserve_one(TUNE), train_on_one(TRAIN, METRICS_OF_1_7)))},
        ">=3.2.1": {FILE: Rewrite((train_on_one(TRAIN, METRICS_OF_1_7),))},
    },
    unaffected={},
    # By Lightning 1 the processes of a trial wait for each other.
    cases=(
        RAY._replace(releases=">=1.5,<3.2.1"),
        RAY._replace(releases="<1.5", original_hangs=True),
        TWO._replace(releases=">=1.5"),
        TWO._replace(releases="<1.5", original_hangs=True),
    ),
)
