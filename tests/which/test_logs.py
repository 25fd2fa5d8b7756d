"""What is read from a log: the process of a line, the traceback of an error, unused parameters, layers."""

from __future__ import annotations

from pathlib import Path

import pytest

from nfpatch.which.logs import Log

LOGS = Path(__file__).parent / "logs"
SITE = "/opt/env/lib/python3.11/site-packages/neuralforecast"
# Prefix that a launcher or logger puts before a line -> the part of it that identifies the process.
PREFIXES = {
    "": "",
    "[rank1]: ": "[rank1]:",
    "[default0]:": "[default0]:",
    "[default1]:[rank1]: ": "[default1]:[rank1]:",
    "[trainer0]:": "[trainer0]:",
    "[rank: 1] ": "[rank: 1]",
    "(_train_tune pid=1) ": "(_train_tune pid=1)",
    "(RayTrainWorker pid=4242, ip=10.0.0.2) ": "(RayTrainWorker pid=4242, ip=10.0.0.2)",
    "\x1b[36m(_train_tune pid=31082)\x1b[0m ": "(_train_tune pid=31082)",
    "(pid=7) [rank0]: ": "(pid=7)[rank0]:",
    "[1,0]<stderr>:": "[1,0]<stderr>:",
    "3: ": "3:",
    "worker-1  | ": "worker-1  |",
    "2026-11-29T23:48:12.367Z [rank0]: ": "[rank0]:",
    "26/11/29 23:48:41 ERROR Executor: ": "",
}
TRACEBACK = """\
{0}Traceback (most recent call last):
{0}  File "/home/user/train.py", line 3, in <module>
{0}    forecaster.predict()
{0}  File "{1}/core.py", line 887, in predict
{0}    fcsts[:, col_idx] = model_fcsts
{0}    ~~~~~^^^^^^^^^^^^
{0}ValueError: could not broadcast input array from shape (6,1) into shape (12,1)
"""
WORDS = "could not broadcast input array from shape"


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_traceback_is_read_behind_the_prefixes_of_launchers(prefix: str) -> None:
    log = Log("Seed set to 1\n" + TRACEBACK.format(prefix, SITE))
    (line,) = log.find(WORDS)
    assert line.number == 8
    assert line.text.startswith("ValueError: could not")
    assert line.prefix == PREFIXES[prefix]
    script, core = log.frames_of(line)
    assert (script.file, script.function, script.catalog_path) == ("/home/user/train.py", "<module>", None)
    assert (core.catalog_path, core.line, core.function) == ("neuralforecast/core.py", 887, "predict")


def test_a_traceback_is_read_among_the_lines_of_another_process() -> None:
    one, other = (TRACEBACK.format(f"[rank{rank}]: ", SITE).splitlines() for rank in (0, 1))
    other = [line.replace("in predict", "in cross_validation") for line in other]
    log = Log("\n".join(line for pair in zip(one, other) for line in pair))
    found = {line.prefix: log.frames_of(line)[-1].function for line in log.find(WORDS)}
    assert found == {"[rank0]:": "predict", "[rank1]:": "cross_validation"}


@pytest.mark.parametrize(
    "text",
    [
        f"ValueError                Traceback (most recent call last)\nCell In[3], line 1\n----> 1 nf.predict()\n\n"
        f"File {SITE}/core.py:887, in NeuralForecast.predict(self, df)\n    886 x\n--> 887 y\n\nValueError: {WORDS}",
        f"╭─── Traceback (most recent call last) ───╮\n│ {SITE}/core.py:887 in predict │\n│   886 x │\n"
        f"╰──╯\nValueError: {WORDS}",
        "org.apache.spark.api.python.PythonException: Traceback (most recent call last):\n"
        f'  File "{SITE}/core.py", line 887, in predict\nValueError: {WORDS}\n',
    ],
    ids=["IPython", "rich", "Spark"],
)
def test_tracebacks_of_other_forms_are_read(text: str) -> None:
    log = Log(text)
    (line,) = log.find(WORDS)
    assert [(frame.catalog_path, frame.line, frame.function) for frame in log.frames_of(line)] == [
        ("neuralforecast/core.py", 887, "predict")
    ]


def test_words_in_the_second_line_of_a_message_have_its_traceback_too() -> None:
    text = TRACEBACK.format("", SITE).replace("could not", "first line\ncould not")
    log = Log(text)
    (line,) = log.find(WORDS)
    assert log.frames_of(line)[-1].function == "predict"


def test_a_line_below_another_processs_traceback_has_none() -> None:
    other = TRACEBACK.format("", SITE).replace(WORDS, "another error")
    log = Log(f"{other}going on\nValueError: {WORDS}\n")
    (line,) = log.find(WORDS)
    assert log.frames_of(line) == ()


def test_a_progress_bar_does_not_hide_an_error() -> None:
    log = Log(f"Epoch 0:  50%|###   | 1/2\rEpoch 0: 100%\r[rank1]: ValueError: {WORDS}\r\n")
    (line,) = log.find(WORDS)
    assert (line.number, line.prefix, line.text) == (1, "[rank1]:", f"ValueError: {WORDS}")


def test_numbers_in_words_stand_for_any() -> None:
    text = "The size of tensor a (17) must match the size of tensor b (4)"
    assert [*Log(text).find("The size of tensor a (2) must match the size of tensor b")]
    assert not [*Log(text.replace("(17)", "(x)")).find("The size of tensor a (2) must match the size of tensor b")]


def test_the_parameters_that_torch_lists_are_those_of_the_model_on_any_rank() -> None:
    line, names = Log((LOGS / "tft-info-1.4.0.log").read_text()).unused or (None, ())
    assert line is not None
    assert len(names) == 41
    assert all(name.startswith("static_encoder.") for name in names)
    assert Log((LOGS / "nbeatsx-1.4.0.log").read_text()).unused is None, "indices are not names"


@pytest.mark.parametrize("text", ["out.weight", "out.weight, out.bias\n", "out.weight\nout.bias\n", "['out.weight']"])
def test_a_text_of_only_names_is_such_a_list(text: str) -> None:
    _, names = Log(text).unused or (None, ())
    assert names[0] == "out.weight"
    assert Log(f"look at {text}").unused is None
    assert Log("").unused is None


def test_the_layers_are_those_with_parameters_of_the_last_model_before_a_line() -> None:
    log = Log((LOGS / "nbeatsx-script-1.7.4.log").read_text())
    line = next(log.find("parameters that were not used"))
    assert log.layers_before(line) == {"loss": "MQLoss", "blocks": "ModuleList", "out": "Linear"}
    again = Log("\n".join([log.text, "0 | loss | MAE | 0 | train", "1 | mlp | Sequential | 3.7 K | train", line.text]))
    assert again.layers_before([*again.find("parameters that were not used")][-1]) == {"mlp": "Sequential"}
