from types import SimpleNamespace

import numpy as np
import pytorch_lightning as pl
import torch

from patches.runtime.digests import compute_digest, plain_options


class Model(pl.LightningModule):
    def __init__(self, factor=2.0, **attributes):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(factor))
        self.register_buffer("scale", torch.ones(2))
        self.loss = torch.nn.L1Loss()
        self.quantiles = [0.1, 0.9]
        self.trainer_kwargs = {"devices": 2}
        for name, value in attributes.items():
            setattr(self, name, value)


def dataset(values=((1.0, 2.0), (3.0, 4.0)), **attributes):
    return SimpleNamespace(temporal=torch.tensor(values), temporal_cols=np.array(["y"], dtype=object), **attributes)


def digest(model=None, data=None, *options):
    return compute_digest([model or Model()], [data or dataset()], *options)


def test_the_digest_depends_on_values():
    assert digest() == digest()
    same = [
        digest(Model().eval()),  # the mode after an error in a prediction
        digest(Model(x_scale=torch.rand(3))),  # as after the last batch of a training
        digest(Model(trainer_kwargs={"devices": 4}, train_trajectories=[(0, 1.0)])),
        digest(Model(_hidden=1)),
        digest(Model(explanations=None)),  # which the first successful prediction sets
    ]
    assert {digest()} == set(same)
    layers = Model()
    layers.scale += 1
    others = [
        digest(Model(2.5)),
        digest(layers),
        digest(Model(h=3)),
        digest(Model(loss=torch.nn.MSELoss())),
        digest(Model(options={"a": [1, None]})),
        digest(Model(options={"a": [1, 2.0]})),
        digest(Model().double()),
        digest(None, None, 1),
        digest(None, None, 1.0),
        digest(None, None, [0.1], None),
        digest(None, dataset(((1.0, 2.0, 3.0, 4.0),))),
        digest(None, dataset(((1.0, 2.0), (3.0, 5.0)))),
        digest(None, dataset(times=np.array(["2020-01-01"], "datetime64[ns]"))),
        digest(None, dataset(times=np.array(["2020-01-02"], "datetime64[ns]"))),
        digest(None, dataset(static=torch.ones(3, dtype=torch.bfloat16))),
        compute_digest([Model()] * 2, [dataset()]),
        compute_digest([Model()], [dataset()] * 2),
    ]
    assert "" not in others
    assert len({digest(), *others}) == 1 + len(others)


def test_files_are_compared_by_their_names_and_sizes(tmp_path):
    def of_files(text):
        (tmp_path / "part.parquet").write_text(text)
        return digest(None, dataset(files_ds=[str(tmp_path)]))

    assert of_files("abc") != of_files("abcd")
    assert of_files("abc") == of_files("xyz")


def test_objects_without_values_cannot_be_compared():
    assert digest(None, dataset(lock=object())) == ""
    assert digest(None, None, object()) == ""


def test_options_are_plain_public_and_not_rank_local():
    instance = SimpleNamespace(h=1, _h=1, names=("a", ["b"]), object=object(), of={"a": object()}, trainer_kwargs={})
    assert plain_options(instance) == {"h": 1, "names": ("a", ["b"])}
