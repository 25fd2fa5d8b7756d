"""The model of a case: a small one, a search for one, or HINT around one."""

from __future__ import annotations

import importlib
import inspect
import os
import tempfile
from dataclasses import replace
from typing import Any, Callable

from .data import CARDINALITIES, EXOGENOUS_COLUMNS, HORIZON, INPUT_SIZE
from .events import CaseSpec
from .through_ray import NOT_PASSED, ray_arguments

# Arguments of losses that have no default
LOSS_ARGUMENTS = {"distribution": "Normal", "q": 0.5, "seasonality": 12}
SMALL_SIZES = {"h": HORIZON, "input_size": INPUT_SIZE}
# For models that sample windows. The usual default, 1024, is ten times as slow
SMALL_BATCH = {"windows_batch_size": 32}
# Options that give the second trial of a search a model of another shape; for a recurrent one the input size does not.
OTHER_SHAPES = {"input_size": 36, "encoder_hidden_size": 12}
# Options that are classes of torch, and their modules
TORCH_CLASSES = {"optimizer": "torch.optim", "lr_scheduler": "torch.optim.lr_scheduler"}
EARLY_STOPPING = "early_stop_patience_steps"


def make_model(case: CaseSpec, max_steps: int, trainer: Callable[[], dict[str, Any]], n_series: int) -> Any:
    """The model of a case, untrained; each call of `trainer` gives new arguments for Lightning's trainer."""
    model_class = getattr(importlib.import_module("neuralforecast.models"), case.model, None)
    if model_class is None:
        return make_search(case, max_steps, trainer, n_series)
    if case.model == "HINT":
        return make_reconciled_model(case, max_steps, trainer, n_series)
    known = inspect.signature(model_class.__init__).parameters
    batch = {name: size for name, size in SMALL_BATCH.items() if name in known}
    arguments = {**SMALL_SIZES, **batch, "loss": make_loss(case), **trainer(), **case_arguments(case, max_steps)}
    if "n_series" in known:
        arguments["n_series"] = n_series
    if case.model == "TimeLLM":
        arguments.update(language_model_arguments())
    if arguments.get("accelerator", "") is None:  # by which a case leaves it to Lightning
        del arguments["accelerator"]
    return model_class(**arguments)


def make_reconciled_model(case: CaseSpec, max_steps: int, trainer: Callable[[], dict[str, Any]], n_series: int) -> Any:
    """HINT around a model, which reconciles the forecasts of a total and its two parts."""
    options = dict(case.options)
    wrapped = dict(options.pop("model"))
    model = make_model(replace(case, model=wrapped.pop("name"), options=wrapped), max_steps, trainer, n_series)
    hint_class = importlib.import_module("neuralforecast.models").HINT
    return hint_class(h=HORIZON, S=summing_matrix(), model=model, **options)


def summing_matrix() -> Any:
    """The summing matrix of a total and its two parts."""
    import numpy

    return numpy.array([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]], dtype=numpy.float32)


def make_search(case: CaseSpec, max_steps: int, trainer: Callable[[], dict[str, Any]], n_series: int) -> Any:
    """A search with two trials, whose models have different shapes; the better one is trained again.

    Only a search in one process has a seed; one by all ranks has none, which is the default. On the released source the
    ranks may choose different trials, and would hang if these had models of different shapes: there they do not.
    """
    search_class = getattr(importlib.import_module("neuralforecast.auto"), case.model)
    models = importlib.import_module("neuralforecast.models")
    sizes: dict[str, Any] = {"input_size": INPUT_SIZE}
    common: dict[str, Any] = {"h": HORIZON}
    taken = inspect.signature(search_class.__init__).parameters
    (common if "loss" in taken else sizes)["loss"] = make_loss(case)  # before 1.3 it is part of the configuration
    if case.model == "AutoHINT":
        options = dict(case.options)
        wrapped = dict(options.pop("model"))
        model_class = getattr(models, wrapped.pop("name"))
        case = replace(case, options={**options, **wrapped})
        common.update(cls_model=model_class, valid_loss=None, S=summing_matrix())
    else:
        model_class = getattr(models, case.model[len("Auto") :])
    known = inspect.signature(model_class.__init__).parameters
    if "n_series" in taken:
        common["n_series"] = n_series
    is_alone, through_ray = case.strategy == "single-process", case.stage == "ray-search"
    if through_ray and "gpus" in taken and isinstance(taken["gpus"].default, int):  # evaluated at import
        common["gpus"] = importlib.import_module("torch").cuda.device_count()
    other_shapes = {name: size for name, size in OTHER_SHAPES.items() if name in known}
    if case.tree.startswith("released") and not is_alone:
        other_shapes = {}

    def constant() -> dict[str, Any]:
        of_all = {"n_series": n_series, "val_check_steps": 1, **SMALL_BATCH}  # a trial must be validated
        of_trainer = {name: value for name, value in trainer().items() if not through_ray or name not in NOT_PASSED}
        of_model = {name: value for name, value in of_all.items() if name in known}
        return {**of_model, **sizes, **of_trainer, **case_arguments(case, max_steps)}

    backend_arguments = ray_arguments if through_ray else optuna_arguments
    return search_class(**common, **backend_arguments(constant, other_shapes, 1 if is_alone else None))


def optuna_arguments(
    constant: Callable[[], dict[str, Any]], other_shapes: dict[str, int], seed: int | None
) -> dict[str, Any]:
    """The arguments of a search through Optuna.

    `constant` gives the options that are not searched, `other_shapes` are options of the second trial, and `seed` is
    that of the sampler, or None.
    """
    import optuna

    def config(trial: Any) -> dict[str, Any]:
        arguments = constant()
        arguments["learning_rate"] = trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)
        is_second = getattr(trial, "number", 0) == 1  # neuralforecast first calls it without one
        return {**arguments, **other_shapes} if is_second else arguments

    sampler = None if seed is None else optuna.samplers.TPESampler(seed=seed)
    return {"config": config, "num_samples": 2, "backend": "optuna", "search_alg": sampler}


def case_arguments(case: CaseSpec, max_steps: int) -> dict[str, Any]:
    """The arguments for a model's constructor that depend on the case only."""
    chosen = [EXOGENOUS_COLUMNS[kind] for kind in case.exogenous if kind != "categorical"]
    arguments: dict[str, Any] = {option: [column] for option, column, _ in chosen}
    if "categorical" in case.exogenous:
        arguments = {option: [column, embedded] for option, column, embedded in chosen}
        names = [embedded for _, _, embedded in chosen]
        arguments.update(cat_exog_list=names, categorical_cardinalities={name: CARDINALITIES[name] for name in names})
    arguments = {**arguments, "max_steps": max_steps, **case.options}
    if arguments.get("valid_loss") is not None:
        arguments["valid_loss"] = make_loss(replace(case, loss=arguments["valid_loss"]))
    for option, module in TORCH_CLASSES.items():
        if option in arguments:
            arguments[option] = getattr(importlib.import_module(module), arguments[option])
    return arguments


def with_options(case: CaseSpec, options: dict[str, Any]) -> CaseSpec:
    """The case with these options of the trained model, which for HINT is the wrapped one."""
    if case.model == "HINT":
        options = {"model": {**case.options["model"], **options}}
    return replace(case, options={**case.options, **options})


def make_loss(case: CaseSpec) -> Any:
    """The loss of a case, with the arguments that it requires."""
    loss_class = getattr(importlib.import_module("neuralforecast.losses.pytorch"), case.loss)
    parameters = inspect.signature(loss_class.__init__).parameters.values()
    required = [p.name for p in parameters if p.default is p.empty and p.kind == p.POSITIONAL_OR_KEYWORD]
    return loss_class(**{name: LOSS_ARGUMENTS[name] for name in required if name in LOSS_ARGUMENTS})


def trained_model_of(forecaster: Any) -> Any:
    """The trained model; of a search, the chosen one. 1.6.0 keeps the untrained models as `models`."""
    model = getattr(forecaster, "models_fitted", forecaster.models)[0]
    while type(model).__mro__[1].__name__ == "BaseAuto" or type(model).__name__ == "HINT":
        model = model.model
    return model


def language_model_arguments() -> dict[str, Any]:
    """A tiny language model for TimeLLM, made from a configuration; nothing is downloaded.

    From 1.7.5 on, TimeLLM takes the folder of the model, before the model itself.
    """
    try:
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import GPT2Config, GPT2Model, PreTrainedTokenizerFast
    except ImportError:
        return {}  # TimeLLM itself reports what is missing

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
