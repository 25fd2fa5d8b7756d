"""Hyperparameter search on several processes: each rank runs its own search.

Through Optuna each rank samples independently. With learning rates in the search the ranks end with different weights,
without any message; with layer sizes or `max_steps` DDP fails or hangs (issue 766 of Nixtla/neuralforecast). Through
ray rank 0 searches, and when it trains the best model, Lightning starts the other ranks, which search again.

With the patch rank 0 leads, as with Optuna's own TorchDistributedTrial: its study samples, prunes and limits the time,
and the other ranks train its trials, which they receive through the store of the process group, with any backend. The
processes and their group must exist before the first trial, so the patch lets Lightning start them. Processes that
exist only during a fit (ddp_spawn, ddp_notebook) do not take part in a search.
"""

from collections.abc import Mapping

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

AUTO = "neuralforecast/common/_base_auto.py"
MODULES = ("search",)

# Through ray: the other ranks receive the results of rank 0
BEGIN = """
train_fn_with_parameters = tune.with_parameters(
    {train}, cls_model=cls_model, dataset=dataset, val_size=val_size, test_size=test_size
)
"""
RECEIVE = """
ranks = search.start_search(config)
if ranks.rank > 0:
    return ranks.receive_results()
"""
# The training of a trial of ray
TRIAL = """
_ = self._fit_model(
    cls_model=cls_model, config=config_step, dataset=dataset, val_size=val_size, test_size=test_size
)
"""
TRIAL_BY_ITSELF = """
with search.without_launcher_env():
    _ = self._fit_model(
        cls_model=cls_model,
        config=config_step,
        dataset=dataset,
        val_size=val_size,
        test_size=test_size,
    )
"""
TRIAL_BEFORE_1_6 = """
model = cls_model(**config_step)
model.fit(dataset, val_size=val_size, test_size=test_size)
"""
TRIAL_BY_ITSELF_BEFORE_1_6 = """
with search.without_launcher_env():
    model = cls_model(**config_step)
    model.fit(dataset, val_size=val_size, test_size=test_size)
"""


def through_ray(function: str, train: str) -> tuple[Change, ...]:
    """Search on rank 0 alone, in this function, which starts these trials."""
    begin = BEGIN.format(train=train)
    return (
        Change(function, old=begin, new=RECEIVE + begin),
        Change(function, old="results = tuner.fit()", new="results = ranks.fit_tuner(tuner)"),
    )


# The whole `fit` of releases that cannot search through Optuna
RAY_ALONE = Change("BaseAuto.fit", old="best_config = results.get_best_result().config")
THROUGH_RAY = (
    *through_ray("BaseAuto._tune_model", "self._train_tune"),
    Change("BaseAuto._train_tune", old=TRIAL, new=TRIAL_BY_ITSELF),
)
THROUGH_RAY_BEFORE_1_6 = (
    *through_ray("tune_model", "train_tune"),
    Change("train_tune", old=TRIAL_BEFORE_1_6, new=TRIAL_BY_ITSELF_BEFORE_1_6),
)

OPTUNA = "BaseAuto._optuna_tune_model"
IN_MEMORY = 'sampler=sampler, direction="minimize"'
OPTIMIZE = """
study.optimize(
    objective,
    n_trials=num_samples,
    show_progress_bar=verbose,{more}
)
"""
OPTIMIZE_ON_ALL_RANKS = """
study = ranks.optimize(
    study,
    objective,
    n_trials=num_samples,
    show_progress_bar=verbose,{more}
)
"""
CALLBACKS = "\n    callbacks=self.callbacks,"
TIMEOUT = "\n    timeout=time_budget,"
ALL_OPTIONS = (
    "study.optimize(objective, **optimize_kwargs)",
    "study = ranks.optimize(study, objective, **optimize_kwargs)",
)


def with_options(more: str) -> tuple[str, str]:
    """The search through Optuna of these releases, before and after."""
    return OPTIMIZE.format(more=more), OPTIMIZE_ON_ALL_RANKS.format(more=more)


SIGNATURE = """
def _optuna_tune_model(
    self, cls_model, dataset, val_size, test_size, verbose, num_samples, search_alg, config{more}
): ...
"""


def through_optuna(
    arguments: str, create: str, optimize: tuple[str, str], config: str = "user_cfg", more: str = ""
) -> Mapping[str, Rewrite]:
    """Let rank 0 lead: at the start of a search, when the study is created, and when it optimizes.

    `more` are the last parameters of the function.
    """
    changes = (
        Change("BaseAuto", old=SIGNATURE.format(more=more)),
        # the objective uses the names of the function and the class, which the hooks rebind
        Change(f"{OPTUNA}.objective", old=f"{config} = config(trial)"),
        Change("BaseAuto._fit_model", old="model = cls_model(**config)"),
        Change(
            OPTUNA,
            old=f"study = optuna.create_study({create})",
            new=f"""
ranks = search.start_search({arguments})
config = ranks.broadcast_config(config)
cls_model = ranks.sync_model(cls_model)
study = ranks.create_study({create})
""",
        ),
        Change(OPTUNA, old=optimize[0], new=optimize[1]),
    )
    return {AUTO: Rewrite((*THROUGH_RAY, *changes), imports=MODULES)}


WITH_TIME_BUDGET = ", distributed_config, time_budget"
IN_PROCESSES = "config, MockTrial()"
OR_ON_SPARK = "config, MockTrial(), distributed_config"

# With other launchers one process is left after a fit, which searches by itself
SEARCH = Case(
    "",
    "Optuna",
    options={"mlp_units": [[8, 8]] * 3},
    stage="search",
    releases=">=1.6.4",
    launchers=("torchrun", "script"),
)

# Through ray, the only backend before 1.6.4, whose trials must have one device each
RAY = SEARCH._replace(model="AutoNHITS", config="ray", stage="ray-search", requires=("ray-trial-on-one-device",))

patch = Patch(
    id="search-by-one-rank",
    summary="every rank runs its own hyperparameter search with different trials",
    symptoms=(
        "appears not to match sizes of the same param in process 0",
        "No best trial found for the given metric",  # ray's trials inherit the rank of the process that searches
    ),
    ambiguous=("No best trial found for the given metric",),
    group="search",
    model="any",
    upstream="not fixed yet: docs/upstream/search-by-one-rank.md",
    variants={
        "<1.6": {AUTO: Rewrite(THROUGH_RAY_BEFORE_1_6, imports=MODULES)},
        ">=1.6,<1.6.4": {AUTO: Rewrite((RAY_ALONE, *THROUGH_RAY), imports=MODULES)},
        "==1.6.4": through_optuna(IN_PROCESSES, IN_MEMORY, with_options(""), config="cfg"),
        ">=1.7.0,<1.7.1": through_optuna(IN_PROCESSES, IN_MEMORY, with_options(CALLBACKS)),
        ">=1.7.1,<3.1.7": through_optuna(OR_ON_SPARK, IN_MEMORY, with_options(CALLBACKS), more=", distributed_config"),
        ">=3.1.7,<3.1.9": through_optuna(
            OR_ON_SPARK, IN_MEMORY, with_options(CALLBACKS + TIMEOUT), more=WITH_TIME_BUDGET
        ),
        ">=3.1.9": through_optuna(OR_ON_SPARK, "**create_kwargs", ALL_OPTIONS, more=WITH_TIME_BUDGET),
    },
    unaffected={},
    cases=(
        SEARCH._replace(model="AutoTFT", options={"hidden_size": 4, "n_head": 1}, requires=("tft-static-encoder",)),
        SEARCH._replace(model="AutoNHITS"),
        SEARCH._replace(model="AutoNBEATSx", thorough=True),
        RAY._replace(releases="<1.6.4"),
        RAY._replace(releases=">=1.6.4", thorough=True),
    ),
)
