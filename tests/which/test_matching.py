"""Which patches match a text, without an install."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from nfpatch.catalog import Catalog, load_catalog
from nfpatch.which.logs import Log
from nfpatch.which.matching import ONLY_IF, Diagnosis, diagnose

LOGS = Path(__file__).parent / "logs"
SITE = "/opt/env/lib/python3.11/site-packages"
OUT = ["nbeatsx-unused-out", "nhits-unused-out"]  # the release decides
MODEL = "neuralforecast/common/_base_model.py"


@cache
def catalog() -> Catalog:
    return load_catalog()


def answer(text: str) -> Diagnosis:
    return diagnose(Log(text), catalog())


def ids(text: str) -> list[str]:
    return [match.patch.id for match in answer(text).matches]


def traceback(error: str, *frames: tuple[str, str]) -> str:
    lines = [f'  File "{file}", line 1, in {function}\n    x' for file, function in frames]
    return "\n".join(["Traceback (most recent call last):", *lines, error])


SCRIPT = ("/home/user/train.py", "<module>")


def own(function: str, file: str = MODEL) -> tuple[str, str]:
    return f"{SITE}/{file}", function


@pytest.mark.parametrize(
    ("log", "expected"),
    {
        "nbeatsx-script-1.7.4": OUT,
        "nbeatsx-spark-1.7.4": OUT,
        "nbeatsx-detail-1.4.0": OUT,
        "tft-torchrun-1.7.4": ["tft-static-context", "tft-static-encoder"],
        "tft-rich-1.7.4": ["tft-static-context", "tft-static-encoder"],
        "tft-info-1.4.0": ["tft-static-encoder"],
        "nhits-predict-1.7.4": ["predict-on-one-device"],
        "nhits-ray-1.7.4": ["ray-trial-on-one-device"],
        "nhits-save-1.7.4": [],
    }.items(),
)
def test_a_real_log_gives_its_patches(log: str, expected: list[str]) -> None:
    assert ids((LOGS / f"{log}.log").read_text()) == expected


def test_every_symptom_of_the_catalog_is_found_with_and_without_a_prefix() -> None:
    for patch in catalog().patches:
        for words in patch.symptoms:
            for text in (words, f"[rank1]: RuntimeError: {words} and more"):
                found = [match for match in answer(text).matches if match.patch.id == patch.id]
                assert [bool(match.only_if) for match in found] == [words in patch.ambiguous], words


def test_symptoms_that_single_process_errors_share_have_a_condition() -> None:
    for words in (
        "could not broadcast input array from shape (24,1) into shape (48,1)",
        "No best trial found for the given metric: loss",
        "FileNotFoundError: [Errno 2] No such file or directory: 'saved/NHITS_0.ckpt'",
        "mat1 and mat2 shapes cannot be multiplied (4x3 and 5x6)",
    ):
        found = answer(words).matches
        assert found
        assert {match.only_if for match in found} == {ONLY_IF}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("static_encoder.vsn.joint_grn.lin_a.weight static_encoder.vsn.joint_grn.lin_c.weight", "tft-static-encoder"),
        ("static_encoder.vsn.joint_grn.lin_c.weight", "tft-static-context"),
        ("module.static_encoder.vsn.joint_grn.lin_c.weight", "tft-static-context"),
        ("model.static_encoder.vsn.joint_grn.lin_a.weight", "tft-static-encoder"),  # of a HINT
        ("stock_block.1.backcast_short_cut.weight", "stemgnn-backcast"),
        ("scaler.revin_bias", "scaler-revin"),
        ("experts.2.weight1", "rmok-wavelet-weight"),
    ],
)
def test_parameter_names_give_the_one_patch_they_need(names: str, expected: str) -> None:
    assert ids(names) == [expected]


def test_parameters_of_two_bugs_give_two_patches_and_a_users_layer_none() -> None:
    found = answer("pdm_blocks.0.layer_norm.weight, normalize_layers.0.affine_bias, adapter.weight")
    assert [match.patch.id for match in found.matches] == ["timemixer-channel-mixing", "timemixer-unused-norm"]
    assert found.unknown == ("adapter.weight",)
    own_layer = answer("adapter.weight, adapter.bias")
    assert (own_layer.matches, own_layer.ok, own_layer.unknown) == ((), False, ("adapter.weight", "adapter.bias"))


def test_of_several_patches_for_one_parameter_the_named_model_decides() -> None:
    listed = "Parameters which did not receive grad for rank 0: out.weight\n"
    assert ids(listed) == OUT
    assert ids(f"models = [NBEATSx(h=12)]\n{listed}") == ["nbeatsx-unused-out"]
    assert ids(f"models = [AutoNHITS(h=12)]\n{listed}") == ["nhits-unused-out"]


REFUSAL = "RuntimeError: It looks like your LightningModule has parameters that were not used in producing the loss"


def test_without_parameter_names_the_layers_of_the_model_decide() -> None:
    summary = "0 | loss | MAE | 0\n1 | {} | {} | 1.2 K\n"
    assert ids(summary.format("pdm_blocks", "ModuleList") + REFUSAL) == ["timemixer-channel-mixing"]
    assert ids(summary.format("model", "TFT") + REFUSAL) == ["tft-static-context", "tft-static-encoder"]
    assert ids(summary.format("pdm_blo…", "ModuleList") + REFUSAL) == ["timemixer-channel-mixing"]
    assert ids(summary.format("pdm_blo", "ModuleList") + REFUSAL) == []
    other = answer(summary.format("adapter", "Linear") + REFUSAL)
    assert (other.matches, other.ok) == ((), False)
    assert other.unnamed is not None
    everything = answer(REFUSAL)
    assert {match.patch.id for match in everything.matches} == {p.id for p in catalog().patches if p.unused_parameters}


def test_of_patches_with_the_same_symptom_the_raising_function_decides() -> None:
    words = "MisconfigurationException: accelerator set through both strategy class and accelerator flag, choose one"
    assert ids(words) == ["predict-on-one-device", "strategy-object"]
    assert ids(traceback(words, SCRIPT, own("_fit"))) == ["strategy-object"]
    assert ids(traceback(words, SCRIPT, own("predict"))) == ["predict-on-one-device"]
    index = "IndexError: list index out of range"
    in_setup = ("neuralforecast/tsdataset.py", "setup")
    assert ids(traceback(index, own(*reversed(in_setup)), (f"{SITE}/pyspark/worker.py", "main"))) == [
        "spark-series-of-ranks"
    ]
    assert ids(traceback(index, SCRIPT, own("predict"))) == ["predict-on-one-device"]


def test_a_spark_patch_needs_a_traceback_on_spark() -> None:
    shapes = "RuntimeError: mat1 and mat2 shapes cannot be multiplied (4x3 and 5x6)"
    assert ids(traceback(shapes, SCRIPT, own("training_step"))) == ["multivariate-all-series"]
    on_spark = traceback(shapes, (f"{SITE}/pyspark/worker.py", "main"), own("training_step"))
    assert ids(on_spark) == ["multivariate-all-series", "spark-series-of-ranks"]


def test_ambiguous_symptoms_need_a_traceback_through_a_known_function() -> None:
    missing = "FileNotFoundError: [Errno 2] No such file or directory: 'data.csv'"
    pandas = (f"{SITE}/pandas/io/common.py", "get_handle")
    assert ids(missing) == ["save-by-one-rank"]
    assert ids(traceback(missing, SCRIPT, pandas)) == []
    assert ids(traceback(missing, SCRIPT, own("fit", "neuralforecast/core.py"), pandas)) == []
    for function in ("save", "load"):
        assert ids(traceback(missing, SCRIPT, own(function, "neuralforecast/core.py"))) == ["save-by-one-rank"]
    assert ids(traceback("list index out of range", SCRIPT)) == []
    assert ids(traceback("ray.exceptions.ActorDiedError: it died", (f"{SITE}/ray/_private/worker.py", "get"))) == [
        "ray-trial-on-one-device"
    ], "a traceback through libraries only excludes no patch"


def test_errors_that_follow_from_another_error_are_no_matches() -> None:
    closed = "[rank1]: RuntimeError: [gloo] Connection closed by peer [127.0.0.1]:4711"
    assert ids(closed) == ["error-on-one-rank"]
    assert ids(f"{closed}\n[rank0]: cannot pickle '_thread.lock' object") == ["saved-callbacks"]
    dbfs = "FileNotFoundError: [Errno 2] No such file or directory: 'dbfs:/part'"
    assert ids(dbfs) == ["spark-dbfs-paths"], "symptoms without other causes have precedence"


def test_a_text_without_known_symptoms_has_no_match() -> None:
    for text in ("", "\n", "ValueError: something else", "Epoch 0: 100%|####| 1/1"):
        assert not answer(text).ok
        assert answer(text).matches == ()
