"""A search through ray takes all GPUs for one trial, which starts DDP where it cannot.

By default a trial reserves all GPUs, so that the model trains on all of them by DDP, in processes that Lightning starts
from within an actor of ray: it dies or waits for ever (issues 1291, 934, 686 of Nixtla/neuralforecast). From 3.2.1 on
(pull request 1572) a trial reserves one, and as many trials as there are GPUs run beside each other.

So they do with the patch, unless the configuration says on how many devices a trial is to train.
"""

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

OLD = """
if gpus > 0:
    device_dict = {"gpu": gpus}
else:
    device_dict = {"cpu": cpus}
"""
NEW = f"""
# DDP cannot start in a trial, which therefore trains on one device
if config.get("devices") is None:
    gpus = min(1, gpus)
{OLD}
"""


def reserve_one(function: str) -> Rewrite:
    """Reserve one GPU for a trial."""
    return Rewrite((Change(function, old=OLD, new=NEW),))


RAY = Case(
    "AutoNHITS",
    "ray",
    options={"mlp_units": [[8, 8]] * 3},
    stage="ray-search",
    launchers=("torchrun", "script"),
    beside=("search-by-one-rank",),
)

patch = Patch(
    id="ray-trial-on-one-device",
    summary="a search through ray takes all GPUs for one trial, which dies or waits for ever",
    symptoms=("ActorDiedError", "DistStoreError", "No best trial found for the given metric"),
    model="any",
    file="neuralforecast/common/_base_auto.py",
    upstream="https://github.com/Nixtla/neuralforecast/pull/1572",
    variants={"<1.6": reserve_one("tune_model"), ">=1.6,<3.2.1": reserve_one("BaseAuto._tune_model")},
    unaffected={">=3.2.1": "fixed upstream in 3.2.1"},
    dead_parameters=(),
    keeps_parameters=True,
    # By Lightning 1 the processes of a trial wait for each other.
    cases=(RAY._replace(releases=">=1.5"), RAY._replace(releases="<1.5", waits=True)),
)
