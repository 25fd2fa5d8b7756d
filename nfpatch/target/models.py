"""The model that a case names: a small one, a search for one, or one around another."""

from __future__ import annotations

import importlib
import inspect
import os
import tempfile
from dataclasses import replace
from typing import Any, Callable

from .data import CARDINALITIES, EXOGENOUS_COLUMNS
from .events import CaseSpec
from .through_ray import NOT_SAID, two_trials_through_ray

# What losses without a default for some argument are given.
LOSS_ARGUMENTS = {"distribution": "Normal", "q": 0.5, "seasonality": 12}
SMALL_SIZES = {"h": 12, "input_size": 24}
# Of the models that sample windows. Most take 1024, which is ten times as slow
SMALL_BATCH = {"windows_batch_size": 32}
# By which the second trial of a search makes a model of another shape. Of a recurrent one, the input size does not.
OTHER_SHAPES = {"input_size": 36, "encoder_hidden_size": 12}
# Options that are a class of torch, and where it is
TORCH_CLASSES = {"optimizer": "torch.optim", "lr_scheduler": "torch.optim.lr_scheduler"}
# An option by which a case leaves to Lightning what it trains on
NOT_NAMED = ("accelerator", None)
EARLY_STOPPING = "early_stop_patience_steps"


def model_of(case: CaseSpec, max_steps: int, trainer: Callable[[], dict[str, Any]], n_series: int) -> Any:
    """The model of a case, untrained; `trainer` gives new arguments for Lightning's trainer each time."""
    model_class = getattr(importlib.import_module("neuralforecast.models"), case.model, None)
    if model_class is None:
        return search_of(case, max_steps, trainer, n_series)
    if case.model == "HINT":
        return reconciled_model_of(case, max_steps, trainer, n_series)
    known = inspect.signature(model_class.__init__).parameters
    sizes = {**SMALL_SIZES, **{name: size for name, size in SMALL_BATCH.items() if name in known}}
    arguments = {**sizes, "loss": loss_of(case), **trainer(), **case_arguments(case, max_steps)}
    if "n_series" in known:
        arguments["n_series"] = n_series
    if case.model == "TimeLLM":
        arguments.update(language_model_arguments())
    return model_class(**{name: value for name, value in arguments.items() if (name, value) != NOT_NAMED})


def reconciled_model_of(case: CaseSpec, max_steps: int, trainer: Callable[[], dict[str, Any]], n_series: int) -> Any:
    """HINT around a model; it makes the forecasts of a total and its two parts coherent."""
    options = dict(case.options)
    wrapped = dict(options.pop("model"))
    model = model_of(replace(case, model=wrapped.pop("name"), options=wrapped), max_steps, trainer, n_series)
    hint_class = importlib.import_module("neuralforecast.models").HINT
    return hint_class(h=SMALL_SIZES["h"], S=total_and_parts(), model=model, **options)


def total_and_parts() -> Any:
    """The summing matrix of a total and its two parts."""
    import numpy

    return numpy.array([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]], dtype=numpy.float32)


def search_of(case: CaseSpec, max_steps: int, trainer: Callable[[], dict[str, Any]], n_series: int) -> Any:
    """A search: two trials of models that differ in shape, of which the better one is trained again.

    Where all ranks search, nothing sets a seed for what is drawn, as by default; in one process two searches are alike.
    On the released source ranks may prefer different trials: were these models of different shapes, the ranks would
    hang.
    """
    search_class = getattr(importlib.import_module("neuralforecast.auto"), case.model)
    models = importlib.import_module("neuralforecast.models")
    sizes: dict[str, Any] = dict(SMALL_SIZES)
    common = {"h": sizes.pop("h")}
    taken = inspect.signature(search_class.__init__).parameters
    (common if "loss" in taken else sizes)["loss"] = loss_of(case)  # before 1.3 it goes with what is searched
    if case.model == "AutoHINT":
        options = dict(case.options)
        wrapped = dict(options.pop("model"))
        model_class = getattr(models, wrapped.pop("name"))
        case = replace(case, options={**options, **wrapped})
        common.update(cls_model=model_class, valid_loss=None, S=total_and_parts())
    else:
        model_class = getattr(models, case.model[len("Auto") :])
    known = inspect.signature(model_class.__init__).parameters
    if "n_series" in taken:
        common["n_series"] = n_series
    is_alone, through_ray = case.strategy == "single-process", case.stage == "ray-search"
    if through_ray and "gpus" in taken and isinstance(taken["gpus"].default, int):  # as many as at the import
        common["gpus"] = importlib.import_module("torch").cuda.device_count()
    other_shapes = {name: size for name, size in OTHER_SHAPES.items() if name in known}
    if case.tree.startswith("released") and not is_alone:
        other_shapes = {}

    def constant() -> dict[str, Any]:
        of_all = {"n_series": n_series, "val_check_steps": 1, **SMALL_BATCH}  # a trial must come to be validated
        of_trainer = {name: value for name, value in trainer().items() if not through_ray or name not in NOT_SAID}
        of_model = {name: value for name, value in of_all.items() if name in known}
        return {**of_model, **sizes, **of_trainer, **case_arguments(case, max_steps)}

    two_trials = two_trials_through_ray if through_ray else two_trials_through_optuna
    return search_class(**common, **two_trials(constant, other_shapes, 1 if is_alone else None))


def two_trials_through_optuna(
    constant: Callable[[], dict[str, Any]], other_shapes: dict[str, int], seed: int | None
) -> dict[str, Any]:
    """Arguments of a search through Optuna.

    `constant` gives what is not searched, `other_shapes` are the second trial's, `seed` is the sampler's, or None.
    """
    import optuna

    def config(trial: Any) -> dict[str, Any]:
        arguments = constant()
        arguments["learning_rate"] = trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)
        is_second = getattr(trial, "number", 0) == 1  # neuralforecast itself asks first, without a number
        return {**arguments, **other_shapes} if is_second else arguments

    sampler = None if seed is None else optuna.samplers.TPESampler(seed=seed)
    return {"config": config, "num_samples": 2, "backend": "optuna", "search_alg": sampler}


def case_arguments(case: CaseSpec, max_steps: int) -> dict[str, Any]:
    """The arguments for a model's constructor that the case itself decides about."""
    chosen = [EXOGENOUS_COLUMNS[kind] for kind in case.exogenous if kind != "categorical"]
    arguments: dict[str, Any] = {option: [column] for option, column, _ in chosen}
    if "categorical" in case.exogenous:
        arguments = {option: [column, embedded] for option, column, embedded in chosen}
        names = [embedded for _, _, embedded in chosen]
        arguments.update(cat_exog_list=names, categorical_cardinalities={name: CARDINALITIES[name] for name in names})
    arguments = {**arguments, "max_steps": max_steps, **case.options}
    if arguments.get("valid_loss") is not None:
        arguments["valid_loss"] = loss_of(replace(case, loss=arguments["valid_loss"]))
    for option, module in TORCH_CLASSES.items():
        if option in arguments:
            arguments[option] = getattr(importlib.import_module(module), arguments[option])
    return arguments


def with_options(case: CaseSpec, options: dict[str, Any]) -> CaseSpec:
    """The case with these options of the model that is trained, which of HINT is the wrapped one."""
    own = case.options
    merged = {**own, "model": {**own["model"], **options}} if case.model == "HINT" else {**own, **options}
    return replace(case, options=merged)


def loss_of(case: CaseSpec) -> Any:
    """The loss that a case names, with arguments where it insists on them."""
    loss_class = getattr(importlib.import_module("neuralforecast.losses.pytorch"), case.loss)
    parameters = inspect.signature(loss_class.__init__).parameters.values()
    required = [p.name for p in parameters if p.default is p.empty and p.kind == p.POSITIONAL_OR_KEYWORD]
    return loss_class(**{name: LOSS_ARGUMENTS[name] for name in required if name in LOSS_ARGUMENTS})


def trained_model_of(forecaster: Any) -> Any:
    """The model that was trained: of a search, the one that it came to. 1.6.0 keeps the untrained ones as `models`."""
    model = getattr(forecaster, "models_fitted", forecaster.models)[0]
    while type(model).__mro__[1].__name__ == "BaseAuto" or type(model).__name__ == "HINT":
        model = model.model
    return model


def language_model_arguments() -> dict[str, Any]:
    """A language model for TimeLLM that knows a few letters, made from a configuration; nothing is downloaded.

    Releases from 1.7.5 on take the folder to load it from, earlier ones the model itself.
    """
    try:
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import GPT2Config, GPT2Model, PreTrainedTokenizerFast
    except ImportError:
        return {}  # TimeLLM says itself what it misses

    letters = {word: number for number, word in enumerate(["<|endoftext|>", *map(chr, range(32, 127))])}
    tokenizer = Tokenizer(models.WordLevel(letters, unk_token="<|endoftext|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")
    config = GPT2Config(vocab_size=len(letters), n_positions=4096, n_embd=16, n_layer=1, n_head=2)
    llm = GPT2Model(config)
    module = importlib.import_module("neuralforecast.models.timellm")
    if not hasattr(module, "AutoModel"):
        return {"llm": llm, "llm_config": config, "llm_tokenizer": fast}
    from safetensors.torch import save_file

    folder = tempfile.mkdtemp()
    config.save_pretrained(folder)
    fast.save_pretrained(folder)
    # `save_pretrained` of a model writes on rank 0 only
    save_file(llm.state_dict(), os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    return {"llm": folder}
