"""Validation on several ranks, which share the batches of one process and get its losses.

Many losses (RMSE, MASE, any with a mask) are not means of their parts, so the losses of shards of the series cannot be
combined to the loss of all. But one process validates batch by batch, and these can be shared: rank r of N computes the
batches r, r + N, ..., each as one process does, and every rank combines the results of all in the order of one process.

    sample_batches          for the loader: the series of this rank's batches
    record_validation_step  before each batch: its step keeps its losses, what it logs, and its error (`BatchResult`)
    gather_outputs          after the last batch: the losses of all batches; logs what all have logged, raises an error

If a batch draws random numbers, every rank computes all batches, from the initial state of the generators. No rank
hangs if another one fails outside of a step, while loading a batch or in a callback: see `Meetings`.

A window of a multivariate model needs all series, so there is only one batch, and every rank computes it: to share its
windows the ranks would have to gather in the middle of a step.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Optional

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.utilities.data import extract_batch_size
from torch.utils.data import DistributedSampler

from . import compat, sampling
from .ranks import RankGroup, group_of_trainer, to_picklable

UPSTREAM = ("neuralforecast.", "pytorch_lightning.", "lightning.")
RECORDED_OPTIONS = {"prog_bar", "logger", "on_epoch", "batch_size", "sync_dist"}


@dataclass
class BatchResult:
    """The result of a batch: its losses, the calls of `log` (name, value, options), and its error."""

    outputs: list[torch.Tensor] = field(default_factory=list)
    logged: list[tuple[str, Any, dict[str, Any]]] = field(default_factory=list)
    error: Optional[BaseException] = None


class Meetings(pl.Callback):
    """Synchronizes all ranks of a trainer, through the store, before a collective call of a validation.

    A rank that fails publishes its error as the outcome of the next meeting, and the others raise it there. This is a
    callback, because a trainer passes every error to its callbacks. It is pickled as a callback that does nothing, so
    that no file refers to this class. Uses the store keys `N/came` and `N/outcome` of the N-th meeting; those of the
    previous meeting are deleted.
    """

    def __init__(self, group: RankGroup) -> None:
        self.group = group
        self.n_held = 0

    def __reduce__(self) -> Any:
        return pl.Callback, ()

    def meet(self) -> None:
        """Wait until all ranks have arrived; raises the error of one that cannot."""
        store, number = self.group.store, self.n_held + 1
        if store.add(f"{number}/came", 1) == self.group.world_size:
            self.group.publish(f"{number}/outcome", None)
            if self.n_held:
                store.delete_key(f"{self.n_held}/came")
                store.delete_key(f"{self.n_held}/outcome")
        error = self.group.receive(f"{number}/outcome")
        self.n_held = number
        if error is not None:
            raise error

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Keep this rank's mean, as all ranks have logged the same: the mean of N equal values may differ from it."""
        compat.compute_epoch_metrics(trainer)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Synchronize after the user's callbacks, and before early stopping and checkpoints, which communicate."""
        self.meet()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Publish the error to the other ranks."""
        with suppress(Exception):  # without a store none of them waits
            self.group.publish(f"{self.n_held + 1}/outcome", to_picklable(exception))


class SharedBatches(DistributedSampler[Any]):
    """The series of the batches that a rank validates, and the results of these batches.

    `numbers` are the numbers that this rank's batches have in one process, in order. Lightning does not replace it,
    because it is a `DistributedSampler`. It is pickled as one of all series, so that no file refers to this class.
    """

    def __init__(
        self, dataset: Any, batch_size: int, n_batches: int, meetings: Meetings, rank: int = 0, n_ranks: int = 1
    ) -> None:
        super().__init__(dataset, num_replicas=1, rank=0, shuffle=False)
        self.batch_size = batch_size
        self.n_batches = n_batches
        self.meetings = meetings
        self.is_shared = n_ranks > 1
        self.numbers = list(range(rank, n_batches, n_ranks))
        self.draws_numbers = False
        self.results: dict[int, BatchResult] = {}
        self.generators: Any = None

    def __iter__(self) -> Iterator[int]:
        return iter(self._indices())

    def __len__(self) -> int:
        return len(self._indices())

    def __reduce__(self) -> Any:
        return DistributedSampler, (self.dataset, 1, 0, False)

    def start_validation(self, device: torch.device) -> None:
        """Clear the results of the last validation, and record the state of the generators."""
        self.results = {}
        self.generators = _generator_states(device)

    @property
    def has_failed(self) -> bool:
        """Whether a batch of this rank has raised, so that no other losses are needed."""
        return any(result.error is not None for result in self.results.values())

    def _indices(self) -> list[int]:
        n_series = len(self.dataset)  # type: ignore[arg-type]
        starts = (number * self.batch_size for number in self.numbers)
        return [index for start in starts for index in range(start, min(start + self.batch_size, n_series))]


def sample_batches(datamodule: Any, batch_size: int) -> Optional[DistributedSampler[Any]]:
    """A sampler of the series in the batches that this rank validates; None in one process.

    Takes the data module whose dataset is validated, and the number of series in a batch. Samples all batches if there
    are fewer batches than ranks, if their number is limited, or if the user's callbacks have hooks for each batch; and
    all series of the rank on Spark, with a strategy other than DDP, or if the model has its own hooks. Adds the
    trainer's `Meetings` to its callbacks. Uses the store key `neuralforecast/validation/calls/RANK`.
    """
    trainer = datamodule.trainer
    if trainer is None or trainer.world_size == 1:
        return None
    is_on_spark = compat.has_files_of_rank(datamodule)
    if is_on_spark or not _is_data_parallel(trainer) or _validates_by_itself(trainer.lightning_module):
        return sampling.sample_everything(datamodule.dataset, shuffle=False)
    n_whole, n_left = divmod(len(datamodule.dataset), batch_size)
    n_batches = n_whole if datamodule.drop_last or n_left == 0 else n_whole + 1
    is_limited = not isinstance(trainer.limit_val_batches, float) or trainer.limit_val_batches != 1.0
    all_batches = (datamodule.dataset, batch_size, n_batches, _meetings_of(trainer))
    if is_limited or trainer.overfit_batches or n_batches < trainer.world_size or _is_followed(trainer):
        return SharedBatches(*all_batches)
    return SharedBatches(*all_batches, trainer.global_rank, trainer.world_size)


def record_validation_step(model: Any, batch: Any, batch_idx: int, *_: Any) -> None:
    """Replace the model's `validation_step`, for one call, by one that records its result or its error.

    Takes the arguments of `on_validation_batch_start`. Does nothing if the loader's sampler is not that of
    `sample_batches`, as in one process. The ranks synchronize before the first batch, where DDP broadcasts buffers.
    """
    batches = _batches_in_validation(model.trainer)
    if batches is None:
        return
    if batch_idx == 0:
        batches.start_validation(model.device)
        batches.meetings.meet()
    is_needed = not batches.draws_numbers and not batches.has_failed
    _record_step(model, batches, batches.numbers[batch_idx] if is_needed else None)


def gather_outputs(model: Any, outputs: Optional[list[torch.Tensor]] = None) -> list[torch.Tensor]:
    """The losses of all batches, in the order of one process, on every rank; logs what one process logs.

    Takes the losses of this rank if Lightning 1 passes them; else they are the model's `validation_step_outputs`. They
    are returned unchanged if the loader's sampler is not that of `sample_batches`.

    If a batch has drawn random numbers, every rank computes all batches, from the initial state of the generators. The
    ranks synchronize before one or two `all_gather_object`. Raises the error of the first failed batch on all ranks.
    """
    trainer = compat.attached_trainer(model)
    batches = _batches_in_validation(trainer)
    if trainer is None or batches is None:
        return model.validation_step_outputs if outputs is None else outputs
    n_batches = min(batches.n_batches, trainer.num_sanity_val_steps) if trainer.sanity_checking else batches.n_batches
    gathered = _gather(batches, model.device)
    if any(is_shared for is_shared, _, _ in gathered) and any(draws for _, draws, _ in gathered):
        batches.draws_numbers = True
        _validate_all(model, batches, n_batches)
        gathered = _gather(batches, model.device)
    results = _in_order([by_number for _, _, by_number in gathered], n_batches)
    for number, result in results:
        if result.error is not None:
            own = batches.results.get(number, BatchResult()).error
            raise result.error if own is None else own
    for _, result in results:
        for name, value, options in result.logged:
            model.log(name, value.to(model.device) if isinstance(value, torch.Tensor) else value, **options)
    return [output.to(model.device) for _, result in results for output in result.outputs]


def gather_totals(model: Any, total: torch.Tensor) -> torch.Tensor:
    """The total of the outputs; if each rank validates different series, the totals of all ranks, stacked.

    Collective if the total is not of `gather_outputs`: an `all_gather`, as in the unpatched source, or a broadcast from
    rank 0 if all ranks have all series.
    """
    gathered: torch.Tensor = model.all_gather(total) if is_loss_reduced(model) else _of_first_rank(model, total)
    return gathered


def mean_over_ranks(model: Any, loss: torch.Tensor) -> torch.Tensor:
    """The loss of all series, the same on every rank; the mean over ranks if each validates different series.

    Collective if the loss is not of `gather_outputs`: a reduction by the trainer's strategy, or a broadcast from rank 0
    if all ranks have all series. The loss itself in one process.
    """
    if not is_loss_reduced(model):
        return _of_first_rank(model, loss)
    mean: torch.Tensor = model.trainer.strategy.reduce(loss)
    return mean


def is_loss_reduced(model: Any) -> bool:
    """Whether a validation loss is reduced over the ranks: if each validates different series, and in one process.

    They do on Spark, and with the user's own sampler. If all ranks have all series, the mean of N equal losses may
    differ from one of them in the last bit.
    """
    trainer = compat.attached_trainer(model)
    if trainer is None or trainer.world_size == 1 or compat.has_files_of_rank(trainer.datamodule):
        return True
    sampler = getattr(compat.validation_loader(trainer), "sampler", None)
    return not isinstance(sampler, DistributedSampler) or sampler.num_replicas != 1


def freeze_layers(valid_loss: Any, loss: Any) -> Any:
    """The validation loss of a model; a frozen copy if it has layers and is not the training loss.

    Only the validation uses the layers of such a loss, so they get no gradient. It is a copy as the user may train
    another model with the one that was passed.
    """
    if valid_loss is loss or not hasattr(valid_loss, "parameters"):
        return valid_loss
    if not any(parameter.requires_grad for parameter in valid_loss.parameters()):
        return valid_loss
    return deepcopy(valid_loss).requires_grad_(False)


class _RecordedStep:
    """A replacement of a model's validation step, for one call, that records its result."""

    def __init__(self, model: Any, batches: SharedBatches, number: Optional[int]) -> None:
        self.model = model
        self.batches = batches
        self.number = number
        self.__wrapped__ = model.validation_step  # whose signature Lightning reads

    def __call__(self, batch: Any, *args: Any) -> Any:
        model = self.model
        del model.validation_step
        if self.number is None:
            return torch.tensor(float("nan"), device=model.device)
        result = self.batches.results[self.number] = BatchResult()
        n_outputs = len(getattr(model, "validation_step_outputs", ()))
        model.log = _RecordedLog(model, batch, result)
        try:
            output = model.validation_step(batch, *args)
        except Exception as error:
            result.error = error
            return torch.tensor(float("nan"), device=model.device)
        finally:
            del model.log
        outputs = model.validation_step_outputs[n_outputs:] if hasattr(model, "validation_step_outputs") else [output]
        result.outputs = [_on_cpu(each) for each in outputs]
        return output


class _RecordedLog:
    """A replacement of a model's `log`, for one batch, that records its arguments.

    Values that cannot be logged later (per step, or of a metric with a state) are logged at once.
    """

    def __init__(self, model: Any, batch: Any, result: BatchResult) -> None:
        self.log = model.log
        self.batch = batch
        self.result = result

    def __call__(self, name: str, value: Any, *args: Any, **options: Any) -> None:
        if args or not isinstance(value, (int, float, torch.Tensor)) or not RECORDED_OPTIONS.issuperset(options):
            self.log(name, value, *args, **options)
            return
        size = options.get("batch_size")
        options["batch_size"] = extract_batch_size(self.batch) if size is None else _on_cpu(size)
        options["sync_dist"] = False  # as all ranks log all values
        self.result.logged.append((name, _on_cpu(value), options))


def _meetings_of(trainer: Any) -> Meetings:
    """The meetings of a trainer's ranks, created for its first loader, before the callbacks that communicate."""
    made = [callback for callback in trainer.callbacks if isinstance(callback, Meetings)]
    if made:
        return made[0]
    group = group_of_trainer(trainer)
    assert group is not None
    meetings = Meetings(group.next_call("neuralforecast/validation"))
    is_own = [not _is_upstream(type(callback)) for callback in trainer.callbacks]
    trainer.callbacks.insert(is_own.index(False) if False in is_own else len(is_own), meetings)
    return meetings


def _batches_in_validation(trainer: Optional[Any]) -> Optional[SharedBatches]:
    """The sampler of the loader that the trainer validates on, if it is one of this module."""
    if trainer is None or trainer.world_size == 1:
        return None
    sampler = getattr(compat.validation_loader(trainer), "sampler", None)
    return sampler if isinstance(sampler, SharedBatches) else None


def _of_first_rank(model: Any, value: torch.Tensor) -> torch.Tensor:
    """The value if its outputs are of `gather_outputs`; else that of rank 0, as random numbers may differ."""
    if _batches_in_validation(model.trainer) is not None:
        return value
    received: torch.Tensor = model.trainer.strategy.broadcast(_on_cpu(value))
    return received.to(value.device)


def _record_step(model: Any, batches: SharedBatches, number: Optional[int]) -> None:
    """Record the result of the model's next validation step."""
    if "validation_step" in vars(model):  # one that was not called
        del model.validation_step
    model.validation_step = _RecordedStep(model, batches, number)


def _gather(batches: SharedBatches, device: torch.device) -> list[tuple[bool, bool, dict[int, BatchResult]]]:
    """For each rank: whether it shares batches, whether it has drawn random numbers, and its results by number."""
    batches.meetings.meet()
    results = {}
    for number, result in batches.results.items():
        error = None if result.error is None else to_picklable(result.error)
        results[number] = BatchResult(result.outputs, result.logged, error)
    draws = batches.draws_numbers or not _are_equal(batches.generators, _generator_states(device))
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, (batches.is_shared, draws, results))
    return gathered


def _in_order(of_ranks: list[dict[int, BatchResult]], n_batches: int) -> list[tuple[int, BatchResult]]:
    """The first rank's result of each batch, or one with an error, up to the first that no rank has computed."""
    results: list[tuple[int, BatchResult]] = []
    for number in range(n_batches):
        of_batch = [by_number[number] for by_number in of_ranks if number in by_number]
        failed = [result for result in of_batch if result.error is not None]
        results.extend((number, result) for result in (failed or of_batch)[:1])
    return results


def _validate_all(model: Any, batches: SharedBatches, n_batches: int) -> None:
    """Compute all batches on this rank, as one process does, from the initial state of the generators."""
    trainer = model.trainer
    loader = compat.validation_loader(trainer)
    own = batches.numbers
    batches.numbers = list(range(batches.n_batches))
    try:
        loaded = iter(loader)
        _set_generators(batches.generators, model.device)
        batches.results = {}
        for number, batch in zip(range(n_batches), loaded):
            if batches.has_failed:
                break
            _record_step(model, batches, number)
            trainer.strategy.validation_step(compat.move_batch(trainer, batch), number)
    finally:
        batches.numbers = own


def _is_data_parallel(trainer: Any) -> bool:
    """Whether each rank has the whole model, so that it can skip a step."""
    return group_of_trainer(trainer) is not None and type(trainer.strategy).__name__.startswith("DDP")


def _validates_by_itself(model: Any) -> bool:
    """Whether the user's class, or an attribute, adds validation hooks to the model or logs values."""
    hooks = [name for name in dir(type(model)) if name.startswith(("validation_", "on_validation_"))]
    if any(name in vars(model) or not _is_upstream(getattr(type(model), name)) for name in hooks):
        return True
    own = [class_ for class_ in type(model).__mro__ if not f"{class_.__module__}.".startswith((*UPSTREAM, "torch."))]
    functions = [function for class_ in own for function in vars(class_).values() if hasattr(function, "__code__")]
    return any({"log", "log_dict"}.intersection(function.__code__.co_names) for function in functions)


def _is_followed(trainer: Any) -> bool:
    """Whether one of the user's callbacks is called for each batch of a validation."""
    hooks = ("on_validation_batch_start", "on_validation_batch_end")
    return not all(_is_upstream(getattr(type(callback), name)) for callback in trainer.callbacks for name in hooks)


def _is_upstream(function: Any) -> bool:
    """Whether a function is one of neuralforecast or Lightning."""
    return str(getattr(function, "__module__", "")).startswith(UPSTREAM)


def _generator_states(device: torch.device) -> list[Any]:
    """The states of the generators of Python, numpy and torch, and of the model's GPU."""
    states = [random.getstate(), np.random.get_state(), torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _set_generators(states: list[Any], device: torch.device) -> None:
    """Set the generators to the states that `_generator_states` has returned."""
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[3], device)


def _are_equal(states: list[Any], others: list[Any]) -> bool:
    """Whether no generator has been used between two states."""
    numpy_states = zip(states[1], others[1])
    return (
        states[0] == others[0]
        and all(np.array_equal(state, other) for state, other in numpy_states)
        and all(torch.equal(state, other) for state, other in zip(states[2:], others[2:]))
    )


def _on_cpu(value: Any) -> Any:
    """The value; a tensor detached and on the CPU."""
    return value.detach().cpu() if isinstance(value, torch.Tensor) else value
