"""A search on several processes: each makes one of its own.

Through Optuna each samples for itself. With learning rates in the search the processes end with other weights each,
without a word; with layer sizes or `max_steps` DDP dies or waits for ever (issue 766 of Nixtla/neuralforecast). Through
ray the first process searches, and when it trains the best model, those that Lightning starts for that search anew.

The patch lets the first process lead, as Optuna's own TorchDistributedTrial does: its study samples, prunes and keeps
the time, and the others try what it tries. They learn of it through the store of the process group, whatever its
backend. Lightning must have started the processes and their group before the first trial, so it is asked to. Processes
that are there for the time of a fit (ddp_spawn, ddp_notebook) take no part in a search, and need nothing.
"""

from textwrap import indent

from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

AUTO = "neuralforecast/common/_base_auto.py"

RANKS = '''
class SearchAmongRanks:
    """A search for all processes of a PL strategy: the first one leads.

    Its study by Optuna samples, prunes and keeps the time. The others follow: they
    hear of each trial through the store of the process group. By ray the first one
    searches alone, and the others hear of the results.
    """

    # What a process says of its own place, and is not told by the first one
    PLACE = ("accelerator", "devices", "num_nodes", "strategy", "plugins")
    # The launchers of PL 2 and PL 1 whose processes end with a fit
    FOR_A_FIT = ("MultiProcessing", "Spawn")
    # By which the launchers of PL, torch and SLURM tell a process its place
    TOLD = (
        *("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "NODE_RANK"),
        *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE"),
        *("MASTER_ADDR", "MASTER_PORT", "SLURM_NTASKS"),
    )
    # Seconds for which a process that fails waits for the others to end a trial
    GRACE = 60

    def __init__(self, config, distributed_config=None):
        self.rank, self.size, self.trial = 0, 1, 0
        self.broken = None
        # Spark trains in processes of its own
        if distributed_config is not None or not self._has_launched(config):
            return
        dist = torch.distributed
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        store = dist.distributed_c10d._get_default_store()
        store = dist.PrefixStore("neuralforecast/search", store)
        count = store.add(f"of {self.rank}", 1)
        self.store = dist.PrefixStore(f"{count}", store)
        self.lock = threading.Lock()

    def _has_launched(self, config):
        """Let PL start the processes, as for a fit; False if there is but this one."""
        constant = config(MockTrial()) if callable(config) else config
        kwargs = {k: constant[k] for k in self.PLACE if constant.get(k) is not None}
        n_gpus = torch.cuda.device_count()
        if torch.cuda.is_available():
            # the defaults of the models
            kwargs = {"accelerator": "gpu", "devices": -1, **kwargs}
        devices = kwargs.get("devices", "auto")
        if devices in ("auto", -1, "-1"):
            devices = n_gpus
        if isinstance(devices, list):
            devices = len(devices)
        if devices in (0, 1, "1") and kwargs.get("num_nodes", 1) == 1:
            return False
        trainer = pl.Trainer(
            **deepcopy(kwargs),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        launcher = getattr(trainer.strategy, "launcher", None)
        # Those of spawn and fork are there for the time of a fit
        is_for_a_fit = any(k in type(launcher).__name__ for k in self.FOR_A_FIT)
        if trainer.world_size == 1 or is_for_a_fit:
            return False
        if not torch.distributed.is_initialized():

            class Nothing(pl.LightningModule):
                def validation_step(self, batch, batch_idx):
                    pass

            nothing = torch.utils.data.DataLoader([0])
            trainer.validate(Nothing(), dataloaders=nothing, verbose=False)
        return torch.distributed.is_initialized()

    def _tell(self, key, value):
        self.store.set(key, pickle.dumps(value))

    def _tell_next(self, kind, value):
        self.trial += 1
        self._tell(f"{self.trial}", (kind, value))
        self.store.add("told", 1)

    def _hear(self, key):
        return pickle.loads(self.store.get(key))

    def _hear_next(self):
        self.trial += 1
        kind, told = self._hear(f"{self.trial}")
        if kind == "error":
            raise RuntimeError(f"The search has ended on the first process: {told}")
        return kind, told

    def config(self, config):
        """The same configuration on all processes, whatever `config` draws."""
        if self.size == 1:
            return config

        def told(trial):
            own = config(trial)
            if self.rank > 0:
                return {**own, **self.plain}
            plain = {k: v for k, v in own.items() if k not in self.PLACE}
            plain = {k: v for k, v in plain.items() if self._is_plain(v)}
            study = trial.study.study_name, trial._trial_id
            self._tell_next("trial", (trial.number, trial.params, plain, study))
            self.is_told = True
            return own

        return told

    @staticmethod
    def _is_plain(value):
        try:
            json.dumps(value)
        except (TypeError, ValueError):
            return False
        return True

    def objective(self, objective):
        """A trial of all processes: one that fails on one of them fails on all."""
        if self.size == 1:
            return objective

        def tried(trial):
            with self.lock:  # Optuna may make several trials at once
                self.is_told, self.is_made = self.rank > 0, False
                self._share_pruning(trial)
                loss, error = None, None
                try:
                    loss = objective(trial)
                except Exception as exception:
                    error = exception
                if self.is_told and not self.is_made:
                    self._tell_made(error)
                if self.is_told:
                    error = self._first_of_all(error)
                if self.broken is not None and self.rank == 0:
                    trial.study.stop()
                if error is not None:
                    raise error
                return loss

        return tried

    def model(self, cls):
        """A model that all processes could make; else none of them trains one."""
        if self.size == 1:
            return cls

        def made(**kwargs):
            model, error = None, None
            try:
                model = cls(**kwargs)
            except Exception as exception:
                error = exception
            self._tell_made(error)
            others = (self._hear(f"{self.trial}/made/{k}") for k in range(self.size))
            for first in filter(None, [error, *others]):
                raise first
            return model

        return made

    def _tell_made(self, error):
        self.is_made = True
        self._tell(f"{self.trial}/made/{self.rank}", self._to_tell(error))

    @staticmethod
    def _to_tell(error):
        try:
            return pickle.loads(pickle.dumps(error))
        except Exception:
            return RuntimeError(f"{type(error).__name__}: {error}")

    def _share_pruning(self, trial):
        """Whether a trial is pruned, the first process decides."""
        asked, decides = itertools.count(), trial.should_prune

        def should_prune():
            key = f"{self.trial}/pruned/{next(asked)}"
            if self.rank == 0:
                self._tell(key, decides())
            return self._hear(key)

        trial.should_prune = should_prune

    def _first_of_all(self, error):
        """The error by which a trial has ended first, on whichever process."""
        order, told = None, None
        if error is not None:
            order = self.store.add(f"{self.trial}/errors", 1)
            told = order, self._to_tell(error)
        self._tell(f"{self.trial}/ended/{self.rank}", told)
        ended = [f"{self.trial}/ended/{rank}" for rank in range(self.size)]
        if error is not None:
            try:
                self.store.wait(ended, timedelta(seconds=self.GRACE))
            except Exception:
                # The others are in the midst of it, and wait for this one for ever
                self.broken = error
                return error
        errors = dict(filter(None, map(self._hear, ended)))
        first = min(errors, default=order)
        return error if first == order else errors[first]

    @contextmanager
    def leading(self):
        """Let the others know if the search ends with an error."""
        try:
            yield
        except Exception as error:
            if self.size > 1:
                self._tell_next("error", f"{type(error).__name__}: {error}")
            raise

    def end(self, study):
        """Tell the others what has come of the search."""
        if self.size == 1:
            return
        if self.broken is not None:
            raise self.broken
        trials = study.trials
        for trial in trials:
            attrs = trial.user_attrs
            trial.user_attrs = {k: v for k, v in attrs.items() if self._is_plain(v)}
        self._tell_next("end", (study.study_name, study.directions, trials))

    @classmethod
    @contextmanager
    def trial_by_ray(cls):
        """A trial is on its own, and not in the place of the process that searches."""
        told = {
            k: os.environ.pop(k)
            for k in list(os.environ)
            if k in cls.TOLD or k.startswith("TORCHELASTIC_")
        }
        try:
            yield
        finally:
            os.environ.update(told)

    def tell_results(self, results):
        """Tell the others what ray has found."""
        if self.size > 1:
            from ray import cloudpickle

            self._tell_next("end", cloudpickle.dumps(results))

    def hear_results(self):
        """Wait for what ray finds on the first process, however long that takes."""
        while self.store.add("told", 0) <= self.trial:
            time.sleep(0.5)
        _, told = self._hear_next()
        return pickle.loads(told)

    def follow(self, objective, storage=None):
        """Try what the first process tries; its study."""
        import optuna

        own = {}
        while True:
            kind, told = self._hear_next()
            if kind == "end":
                break
            number, params, self.plain, (study_name, trial_id) = told
            if storage is None:
                trial = optuna.trial.FixedTrial(params, number)
            else:
                study = optuna.load_study(study_name=study_name, storage=storage)
                trial = optuna.trial.Trial(study, trial_id)
            try:
                objective(trial)
            except Exception:
                # The search goes on where that of the first process does
                if self.broken is not None:
                    raise
            own[number] = trial.user_attrs
        # Of its own also where there is a storage, in which the first one may be ahead
        study_name, directions, trials = told
        study = optuna.create_study(study_name=study_name, directions=directions)
        for trial in trials:
            trial.user_attrs.update(own.get(trial.number, {}))
            study.add_trial(trial)
        return study
'''

IMPORTS = """
import itertools
import json
import os
import pickle
import threading
import time
from contextlib import contextmanager
from copy import deepcopy
from datetime import timedelta
"""

# Through ray: the functions that search and that make a trial, how they begin, and how the trial trains
TUNE = "BaseAuto._tune_model"
BEGIN = """
train_fn_with_parameters = tune.with_parameters(
    self._train_tune, cls_model=cls_model, dataset=dataset, val_size=val_size, test_size=test_size
)
"""
TRAIN = "BaseAuto._train_tune"
TRIAL = """
_ = self._fit_model(
    cls_model=cls_model, config=config_step, dataset=dataset, val_size=val_size, test_size=test_size
)
"""
TRIAL_BEFORE_1_6 = """
model = cls_model(**config_step)
model.fit(dataset, val_size=val_size, test_size=test_size)
"""
ON_ITS_OWN = "with SearchAmongRanks.trial_by_ray():"
FOLLOW = """
ranks = SearchAmongRanks(config)
if ranks.rank > 0:
    return ranks.hear_results()
"""


def through_ray(where: str = TUNE, begin: str = BEGIN, train: str = TRAIN, trial: str = TRIAL) -> tuple[Change, ...]:
    """Let the first process alone search through ray, in trials that know nothing of the others."""
    fit = "results = tuner.fit()"
    return (
        Change("", old="from copy import deepcopy", new=IMPORTS),
        Change(train, old=trial, new=ON_ITS_OWN + indent(trial, "    ")),
        Change(where, old=begin, new=FOLLOW + begin),
        Change(where, old=fit, new=f"with ranks.leading():\n    {fit}\n    ranks.tell_results(results)"),
    )


def only_through_ray(*changes: Change, auto: str = "class BaseAuto(pl.LightningModule): ...") -> Rewrite:
    """The same where there is nothing else to search through, with further changes."""
    return Rewrite((*(changes or through_ray()), Change("", old=auto, new=f"{RANKS}\n{auto}")))


BEFORE_1_6 = through_ray("tune_model", BEGIN.replace("self._train_tune", "train_tune"), "train_tune", TRIAL_BEFORE_1_6)
IMPORT_LIGHTNING = Change("", old="import torch", new="import torch\nimport pytorch_lightning as pl")

CREATE = 'study = optuna.create_study(sampler=sampler, direction="minimize")'
CREATE_WITH_OPTIONS = "study = optuna.create_study(**create_kwargs)"
OPTIMIZE = {
    "==1.6.4": "n_trials=num_samples, show_progress_bar=verbose",
    ">=1.7.0,<1.7.1": "n_trials=num_samples, show_progress_bar=verbose, callbacks=self.callbacks",
    ">=1.7.1,<3.1.7": "n_trials=num_samples, show_progress_bar=verbose, callbacks=self.callbacks",
    ">=3.1.7,<3.1.9": "n_trials=num_samples, show_progress_bar=verbose, callbacks=self.callbacks, timeout=time_budget",
    ">=3.1.9": "**optimize_kwargs",
}


def led(release: str) -> Rewrite:
    """Let the first process lead the search of this release."""
    has_options, has_spark = release == ">=3.1.9", release not in ("==1.6.4", ">=1.7.0,<1.7.1")
    create = CREATE_WITH_OPTIONS if has_options else CREATE
    storage = ', create_kwargs.get("storage")' if has_options else ""
    optimize = f"study.optimize(objective, {OPTIMIZE[release]})"
    return Rewrite(
        (
            *through_ray(),
            Change("", old="class MockTrial: ...", new=f"class MockTrial: ...\n{RANKS}"),
            Change(
                "BaseAuto._optuna_tune_model",
                old=create,
                new=f"""
ranks = SearchAmongRanks(config{", distributed_config" if has_spark else ""})
config, objective = ranks.config(config), ranks.objective(objective)
cls_model = ranks.model(cls_model)
if ranks.rank > 0:
    return ranks.follow(objective{storage})
with ranks.leading():
    {create}
""",
            ),
            Change(
                "BaseAuto._optuna_tune_model",
                old=optimize,
                new=f"with ranks.leading():\n    {optimize}\n    ranks.end(study)",
            ),
        )
    )


# Of other launchers one process is left after a fit, which searches for all
SEARCH = Case(
    "",
    "Optuna",
    options={"mlp_units": [[8, 8]] * 3},
    stage="search",
    releases=">=1.6.4",
    launchers=("torchrun", "script"),
)

# Through ray, whose trials must have a device each; the only way before 1.6.4.
RAY = SEARCH._replace(model="AutoNHITS", config="ray", stage="ray-search", requires=("ray-trial-on-one-device",))

patch = Patch(
    id="search-by-one-rank",
    summary="each of several devices makes a search of its own, and tries something else",
    symptoms=(
        "appears not to match sizes of the same param in process 0",
        "No best trial found for the given metric",  # as ray's trials take themselves for the process that searches
    ),
    group="search",
    model="any",
    upstream="not fixed yet: docs/upstream/search-by-one-rank.md",
    variants={
        "<1.1": {AUTO: only_through_ray(*BEFORE_1_6, IMPORT_LIGHTNING, auto="class BaseAuto: ...")},
        ">=1.1,<1.6": {AUTO: only_through_ray(*BEFORE_1_6)},
        ">=1.6,<1.6.4": {AUTO: only_through_ray()},
        **{release: {AUTO: led(release)} for release in OPTIMIZE},
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
