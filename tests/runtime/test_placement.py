import copy
from types import SimpleNamespace

import pytest
import torch

from patches.runtime import compat, placement


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """Sets the number of GPUs and the variables of a launcher; none by default."""

    def set_up(n_gpus=0, **variables):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: n_gpus)
        for name in placement.LOCAL_RANK_VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    set_up()
    return set_up


@pytest.fixture
def lightning_2(monkeypatch):
    monkeypatch.setattr(compat, "former_device_arguments", lambda: ())
    monkeypatch.setattr(compat, "default_strategy", lambda: "auto")


@pytest.fixture
def lightning_1(monkeypatch):
    monkeypatch.setattr(compat, "former_device_arguments", lambda: ("num_processes", "gpus"))
    monkeypatch.setattr(compat, "default_strategy", lambda: None)


ONE_NODE = {"strategy": "auto", "num_nodes": 1}


@pytest.mark.parametrize(
    ("n_gpus", "trainer_kwargs"),
    [
        (0, {}),
        (0, {"devices": 1}),
        (0, {"devices": "auto"}),
        (0, {"devices": 0}),
        (1, {}),
        (1, {"devices": -1, "accelerator": "gpu"}),
        (2, {"devices": 1, "accelerator": "gpu"}),
        (2, {"devices": [1], "accelerator": "gpu"}),
        (2, {"devices": "1,", "accelerator": "gpu"}),
        (2, {"accelerator": "cpu", "devices": -1}),
        (2, {"accelerator": "cpu"}),
    ],
)
def test_arguments_for_one_process_do_not_change(machine, lightning_2, n_gpus, trainer_kwargs):
    machine(n_gpus)
    assert placement.single_device_changes(trainer_kwargs) == {}
    assert placement.single_device_kwargs(trainer_kwargs) == trainer_kwargs


@pytest.mark.parametrize("trainer_kwargs", [{"devices": 2}, {"devices": "2"}, {"devices": 1, "num_nodes": 2}])
def test_each_process_predicts_on_one_cpu(lightning_2, trainer_kwargs):
    assert placement.single_device_changes(trainer_kwargs) == {"devices": 1, **ONE_NODE}


def test_other_arguments_are_kept(lightning_2):
    trainer_kwargs = {"devices": 2, "strategy": "ddp", "max_steps": 3}
    before = dict(trainer_kwargs)
    assert placement.single_device_kwargs(trainer_kwargs) == {"devices": 1, "max_steps": 3, **ONE_NODE}
    assert trainer_kwargs == before


@pytest.mark.parametrize(
    ("n_gpus", "requested", "variables", "own"),
    [
        pytest.param(2, None, {}, 0, id="no launcher"),
        pytest.param(2, None, {"LOCAL_RANK": "1"}, 1, id="all GPUs"),
        pytest.param(2, "auto", {"LOCAL_RANK": "1"}, 1, id="auto"),
        pytest.param(4, 2, {"LOCAL_RANK": "1"}, 1, id="two of four"),
        pytest.param(4, [2, 3], {"LOCAL_RANK": "1"}, 3, id="a list"),
        pytest.param(4, "2,3", {"LOCAL_RANK": "0"}, 2, id="a list in a string"),
        pytest.param(4, [2, 3], {"SLURM_LOCALID": "1"}, 3, id="SLURM"),
        pytest.param(4, [2, 3], {"OMPI_COMM_WORLD_LOCAL_RANK": "1"}, 3, id="MPI"),
        pytest.param(4, [2, 3], {"LOCAL_RANK": "0", "SLURM_LOCALID": "1"}, 2, id="torchrun on SLURM"),
        pytest.param(2, [4, 5], {"LOCAL_RANK": "1"}, 1, id="a machine with fewer GPUs"),
        pytest.param(1, 4, {"LOCAL_RANK": "3"}, 0, id="a machine with one GPU"),
    ],
)
def test_each_process_predicts_on_its_own_gpu(machine, lightning_2, n_gpus, requested, variables, own):
    machine(n_gpus, **variables)
    changes = placement.single_device_changes({"devices": requested, "accelerator": "gpu"})
    assert changes == {"devices": [own], **ONE_NODE}


def test_no_device_on_each_of_several_machines(machine, lightning_2):
    machine(2, LOCAL_RANK="1")
    changes = placement.single_device_changes({"devices": 0, "num_nodes": 2})
    assert changes == {"devices": [1], **ONE_NODE}


@pytest.mark.parametrize("name", ["devices", "num_processes", "gpus"])
def test_the_old_names_have_precedence_over_devices(machine, lightning_1, name):
    expected = {"num_processes": None, "gpus": None, "devices": 1, "strategy": None, "num_nodes": 1}
    assert placement.single_device_changes({name: 2}) == expected
    assert placement.single_device_changes({name: 1}) == {}
    machine(2, LOCAL_RANK="1")
    assert placement.single_device_changes({name: 2}) == {**expected, "devices": [1]}


def loaded_model(**trainer_kwargs):
    return SimpleNamespace(trainer_kwargs=trainer_kwargs)


@pytest.mark.parametrize(
    ("requested", "clamped"),
    [(4, 2), ("4", 2), ([0, 1, 2, 3], [0, 1]), ([1, 2], [1]), ([2, 3], [0]), ((2, 3), [0]), ("1,2", [1]), ("3,", [0])],
)
def test_a_loaded_model_trains_on_the_available_gpus(machine, requested, clamped):
    machine(2)
    model = loaded_model(devices=requested, accelerator="gpu", max_steps=3)
    with pytest.warns(UserWarning, match="devices="):
        placement.clamp_devices([model])
    assert model.trainer_kwargs == {"devices": clamped, "accelerator": "gpu", "max_steps": 3}


@pytest.mark.parametrize(
    ("n_gpus", "trainer_kwargs"),
    [
        (0, {"devices": 4}),
        (2, {"devices": 4, "accelerator": "cpu"}),
        (2, {"devices": 2}),
        (2, {"devices": 1}),
        (2, {"devices": "auto"}),
        (2, {"devices": -1}),
        (2, {"devices": [0, 1]}),
        (2, {"devices": "0,1"}),
        (2, {}),
    ],
)
def test_a_loaded_model_keeps_available_devices(machine, recwarn, n_gpus, trainer_kwargs):
    machine(n_gpus)
    model = loaded_model(**trainer_kwargs)
    placement.clamp_devices([model])
    assert model.trainer_kwargs == trainer_kwargs
    assert not recwarn.list


@pytest.mark.parametrize(
    ("n_gpus", "num_nodes", "keeps_strategy"),
    [(1, 1, False), (2, 1, True), (1, 2, True)],
)
@pytest.mark.parametrize("requested", [4, [0, 1, 2, 3]])
def test_one_device_needs_no_strategy(machine, n_gpus, num_nodes, keeps_strategy, requested):
    machine(n_gpus)
    model = loaded_model(devices=requested, strategy="ddp", num_nodes=num_nodes)
    with pytest.warns(UserWarning, match="devices="):
        placement.clamp_devices([model])
    assert ("strategy" in model.trainer_kwargs) is keeps_strategy


def test_the_old_name_of_the_number_of_gpus(machine, lightning_1):
    machine(1)
    model = loaded_model(gpus=4, devices=None)
    with pytest.warns(UserWarning, match="devices=4"):
        placement.clamp_devices([model])
    assert model.trainer_kwargs == {"devices": 1}


def test_the_model_of_hint(machine):
    machine(1)
    model = loaded_model(devices=4)
    with pytest.warns(UserWarning, match="devices="):
        placement.clamp_devices([SimpleNamespace(model=model)])
    assert copy.copy(model.trainer_kwargs) == {"devices": 1}


def test_layers_that_are_called_model(machine):
    """In TimesNet it is a list of layers, in PatchTST the backbone."""
    machine(1)
    model = loaded_model(devices=4)
    model.model = torch.nn.ModuleList()
    with pytest.warns(UserWarning, match="devices="):
        placement.clamp_devices([model])
    assert model.trainer_kwargs == {"devices": 1}
