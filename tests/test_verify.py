"""`verify` on real installs with real distributed fits."""

from __future__ import annotations

import json
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from support import BASIC_PATCHES, NBEATSX, TFT, answer, invoke, run_nfpatch, snapshot

from nfpatch.catalog import load_catalog
from nfpatch.engine.sources import Source
from nfpatch.installs.find import find_install
from nfpatch.patching.install_state import InstallState, inspect_install
from nfpatch.proof.prove import Agenda, ProofRequest, agenda_for, timeout_for
from nfpatch.proof.report import groups
from nfpatch.proof.runner import ProofReport
from nfpatch.proof.verdict import result_without_calls

OUT_LAYER = ["out.weight", "out.bias"]


def agenda_of(
    found: InstallState, *names: str, source: Source = "patched", skip: tuple[str, ...] = (), **options: Any
) -> Agenda:
    """The plan of `verify` of these names, by default with --preview."""
    return agenda_for(found, ProofRequest(found.catalog.selection(names, skip), source, **options))


def by_source(document: Any, source: str) -> dict[tuple[str, str], Any]:
    """The strict fits of a source, by model and configuration."""
    return {
        (case["model"], case["config"]): case
        for case in document["cases"]
        if case["source"] == source and case["strategy"] == "strict-ddp"
    }


@pytest.mark.ddp
def test_verify_distinguishes_patched_and_unpatched_installs(site: Path, training_env: Path) -> None:
    where = ("--python", training_env, "--site-packages", site)
    released = snapshot(site)

    unpatched = invoke("verify", *BASIC_PATCHES, "--json", *where)
    assert unpatched.exit_code == 1
    document = json.loads(unpatched.stdout)
    assert document["ok"] is False
    assert by_source(document, "released")["NBEATSx", "MQLoss"]["ok"] is True
    assert by_source(document, "installed")["NBEATSx", "MQLoss"]["ok"] is False
    assert by_source(document, "installed")["NBEATSx", "MQLoss"]["unused_parameters"] == OUT_LAYER
    assert by_source(document, "installed")["NBEATSx", "MAE"]["ok"] is True
    assert by_source(document, "installed")["TFT", "no static features"]["outcome"] == "unused-parameters"
    assert snapshot(site) == released

    assert invoke("apply", *BASIC_PATCHES, *where).exit_code == 0
    patched = snapshot(site)
    document = answer("verify", *BASIC_PATCHES, *where)
    assert document["ok"] is True
    assert (document["world_size"], document["backend"]) == (2, "gloo")
    assert document["neuralforecast"]["version"] == "1.7.4"
    assert document["torch"].startswith("2.13.0")
    red, green = by_source(document, "released"), by_source(document, "installed")
    assert red["NBEATSx", "MQLoss"]["outcome"] == "unused-parameters"
    assert red["NBEATSx", "MQLoss"]["unused_parameters"] == OUT_LAYER
    assert red["NBEATSx", "MAE"]["outcome"] == "pass"
    unused = red["TFT", "no static features"]["unused_parameters"]
    assert len(unused) == 41
    assert all(name.startswith("static_encoder.") for name in unused)
    assert {case["outcome"] for case in green.values()} == {"pass"}
    assert ("NHITS", "MQLoss") in red
    assert ("NHITS", "MQLoss") in green
    assert all(case["steps"] > 1 for case in green.values())
    compared = [case for case in document["cases"] if case["like"] is not None]
    assert {case["id"] for case in compared} == {
        case["id"] for case in document["cases"] if case["source"] != "released"
    }
    assert all(case["matches_reference"] is True for case in compared)
    assert {case["strategy"] for case in compared} == {"strict-ddp", "single-process"}
    promised = {
        *("id", "patch", "model", "config", "source", "expect", "outcome", "ok"),
        *("unused_parameters", "seconds", "detail"),
    }
    assert all(promised <= set(case) for case in document["cases"])
    assert snapshot(site) == patched


@pytest.mark.ddp
def test_preview_proves_the_patched_source_without_writing_it(site: Path, training_env: Path, tmp_path: Path) -> None:
    before = snapshot(site)
    where = ("--python", training_env, "--site-packages", site)
    files = ("--junit-xml", tmp_path / "proof.xml", "--html", tmp_path / "proof.html")
    ran = run_nfpatch("verify", "nbeatsx-unused-out", "--preview", "--verbose", *files, *where)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "Proved" in ran.stdout
    assert "patched" in ran.stdout
    assert "out.weight, out.bias" in ran.stdout
    assert all(len(line) <= 80 for line in ran.stdout.splitlines()[1:])
    assert "NBEATSx, MQLoss, patched source, strict DDP: pass" in ran.stderr
    suite = ElementTree.parse(tmp_path / "proof.xml").getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("9", "0", "0")
    page = (tmp_path / "proof.html").read_text()
    assert "neuralforecast 1.7.4: proved" in page
    assert "<del>-            self.out = nn.Linear(\n</del>" in page
    assert snapshot(site) == before


@pytest.mark.ddp
def test_three_ranks_show_the_same_bugs_as_two(site: Path, training_env: Path) -> None:
    patches = ("validation-of-all-series", "save-by-one-rank")
    where = ("--python", training_env, "--site-packages", site)
    document = answer("verify", *patches, "--preview", "--devices", 3, *where)
    assert (document["ok"], document["world_size"]) == (True, 3)
    red = {case["patch"] for case in document["cases"] if case["source"] == "released" and case["expect"] == "wrong"}
    assert red == set(patches)


@pytest.mark.ddp
def test_the_bugs_of_the_released_source_are_shown_separately(site: Path, training_env: Path) -> None:
    where = ("--python", training_env, "--site-packages", site)
    document = answer("verify", "tft-static-encoder", "--source", "released", *where)
    assert (document["ok"], document["proved"]) == (True, [])
    assert [patch["id"] for patch in document["unproved"]] == ["tft-static-encoder"]
    assert {case["source"] for case in document["cases"]} == {"released"}
    assert "unused-parameters" in {case["outcome"] for case in document["cases"] if case["patch"] is not None}


def test_a_preview_is_exactly_the_patched_source(site: Path) -> None:
    assert invoke("verify", "--preview", "--source", "released", "--site-packages", site).exit_code == 2


LIVE_LAYERS_REMOVED = """
from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

HIDDEN = "for i in range(num_layers - 1): layers += [nn.Linear(in_features=hidden_size, out_features=hidden_size)]"

patch = Patch(
    id="mlp-live-layer", summary="takes a layer that is alive", model="MLP", group="unused-parameters",
    upstream="", unaffected={},
    variants={
        "==1.7.4": {
            "neuralforecast/models/mlp.py": Rewrite((Change("MLP.__init__", HIDDEN, HIDDEN.replace("- 1", "- 2")),))
        }
    },
    cases=(Case("MLP", "MAE", options={"hidden_size": 8}, unused_parameters=()),),
)
"""
# It even names them, but they are unused in no released case
LIVE_LAYERS_FROZEN = """
from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

BUILD = "self.mlp = nn.ModuleList(layers)"

patch = Patch(
    id="mlp-live-layer", summary="freezes layers that are used", model="MLP", group="unused-parameters",
    upstream="", unaffected={},
    variants={
        "==1.7.4": {
            "neuralforecast/models/mlp.py": Rewrite(
                (Change("MLP.__init__", BUILD, BUILD + "\\nself.mlp.requires_grad_(False)"),)
            )
        }
    },
    unused_parameters=("mlp.*",),
    cases=(Case("MLP", "MAE", options={"hidden_size": 8}, unused_parameters=()),),
)
"""


@pytest.mark.ddp
@pytest.mark.parametrize(
    ("patch", "words"),
    [
        (LIVE_LAYERS_REMOVED, "removed, but not claimed by the patch: mlp.1.weight, mlp.1.bias"),
        (
            LIVE_LAYERS_FROZEN,
            "frozen, but not claimed by the patch: mlp.0.weight, mlp.0.bias, mlp.1.weight, mlp.1.bias",
        ),
    ],
    ids=["removed", "frozen"],
)
def test_apply_prove_changes_nothing_if_the_proof_fails(
    site: Path, training_env: Path, tmp_path: Path, patch: str, words: str
) -> None:
    (tmp_path / "patches").mkdir()
    (tmp_path / "patches" / "mlp.py").write_text(patch)
    before = snapshot(site)

    where = ("--patches", tmp_path / "patches", "--python", training_env, "--site-packages", site)
    result = invoke("apply", "mlp-live-layer", "--prove", "--allow-modified", "--json", *where)

    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert document["changed"] == []
    green = by_source(document["proof"], "patched")["MLP", "MAE"]
    assert words in green["detail"]
    assert "nothing was written" in result.stderr
    assert snapshot(site) == before


EMPTY_PROMISE = """
from nfpatch.catalog import Case, Patch
from nfpatch.codemod import Change, Rewrite

NHITS = {"mlp_units": [[8, 8], [8, 8], [8, 8]]}

patch = Patch(
    id="empty-promise", summary="claims to fix the calls after fit", model="any", upstream="",
    group="multi-process",
    variants={
        "==3.3.0": {"neuralforecast/core.py": Rewrite((Change("", "import pickle", "import pickle\\nimport math"),))}
    },
    unaffected={},
    cases=tuple(
        Case("NHITS", stage, options=NHITS, stage=stage) for stage in ("validate", "predict", "save", "refit")
    ),
)
"""


@pytest.mark.ddp
def test_stages_that_differ_from_one_process_are_reported(
    released: Callable[[str], Path], training_env: Path, tmp_path: Path
) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "promise.py").write_text(EMPTY_PROMISE)
    where = ("--patches", tmp_path / "own", "--python", training_env, "--site-packages", released("3.3.0"))
    document = answer("verify", "empty-promise", "--preview", "--allow-modified", *where)
    assert document["ok"] is False
    stages = {case["stage"]: case for case in document["cases"] if case["source"] == "patched"}
    outcomes = {stage: (stages[stage]["outcome"], stages[stage]["ok"]) for stage in stages if stage != "fit"}
    assert outcomes == {
        "validate": ("wrong", False),
        "predict": ("wrong", False),
        "save": ("error", False),
        "refit": ("pass", True),
    }
    assert "the validation loss is" in stages["validate"]["detail"]
    assert "of them NaN" in stages["predict"]["detail"]
    assert "rank 1: FileNotFoundError" in stages["save"]["detail"]


@pytest.mark.ddp
def test_apply_prove_patches_a_modified_file(site: Path, training_env: Path) -> None:
    where = ("--python", training_env, "--site-packages", site)
    nbeatsx = site / NBEATSX
    nbeatsx.write_text("# ours\n" + nbeatsx.read_text())
    before = snapshot(site)
    refused = invoke("apply", "nbeatsx-unused-out", "--prove", *where)
    assert refused.exit_code == 3
    assert snapshot(site) == before

    result = invoke("apply", "nbeatsx-unused-out", "--prove", "--allow-modified", *where)

    assert result.exit_code == 0, result.stdout + result.stderr
    assert result.stdout.index("Proved") < result.stdout.index("1 file changed")
    assert nbeatsx.read_text().startswith("# ours\n")
    assert "self.out =" not in nbeatsx.read_text()
    again = invoke("apply", "nbeatsx-unused-out", "--prove", *where)
    assert again.exit_code == 0
    assert "Nothing to apply" in again.stdout
    assert "Proved" not in again.stdout


def test_a_preview_of_a_modified_file_is_compared_with_that_file(site: Path) -> None:
    nbeatsx = site / NBEATSX
    nbeatsx.write_text("# ours\n" + nbeatsx.read_text())
    catalog = load_catalog()

    agenda = agenda_of(inspect_install(find_install(None, site), catalog), "nbeatsx-unused-out", allow_modified=True)

    assert agenda.trees["patched"][NBEATSX].startswith(b"# ours\n")
    assert agenda.trees["released"] == {}
    strict = [fit for fit in agenda.cases if fit.case.config == "MQLoss" and fit.strategy == "strict-ddp" and fit.patch]
    assert [(fit.source, fit.expect) for fit in strict] == [("released", "unused-parameters"), ("patched", "pass")]


def test_the_thorough_proof_has_every_configuration_and_the_default_one_fewer(site: Path) -> None:
    catalog = load_catalog()
    found = inspect_install(find_install(None, site), catalog)

    def configurations(thorough: bool, *patch_ids: str) -> set[tuple[str, str]]:
        agenda = agenda_of(found, *patch_ids, thorough=thorough)
        return {(fit.case.model, fit.case.config) for fit in agenda.cases}

    needed = [patch for patch in catalog.default if catalog.files_of(patch, "1.7.4")]
    cases = [case for patch in needed for case in patch.cases if case.is_possible_in("1.7.4")]
    cases = [case for case in cases if case.launchers != ("spark",)]  # which needs an environment of its own
    journeys = {(model, "journey") for model in ("NHITS", "GRU", "TFT", "MLPMultivariate")}
    control = {("NHITS", "MQLoss")}
    assert configurations(thorough=True) == {(case.model, case.config) for case in cases} | control | journeys
    assert configurations(False, *BASIC_PATCHES) == {
        ("NBEATSx", "MQLoss"),
        ("NBEATSx", "MAE"),
        ("TFT", "no static features"),
        ("NHITS", "MQLoss"),
    }


def test_both_sources_of_a_case_have_its_required_patches(
    released: Callable[[str], Path],
) -> None:
    catalog = load_catalog()
    site = released("3.3.0")
    required = "multivariate-all-series"
    (file,) = catalog.files_of(catalog.select([required])[0], "3.3.0")

    def trees(*names: str, source: Source = "patched") -> dict[str, set[str]]:
        agenda = agenda_of(inspect_install(find_install(None, site), catalog), *names, source=source)
        fits = [fit for fit in agenda.cases if fit.patch == "timemixer-channel-mixing"]
        for tree in {fit.tree for fit in fits} - {"released", "patched", "installed"}:
            assert file in agenda.trees[tree]
        return {source: {fit.tree for fit in fits if fit.source == source} for source in {fit.source for fit in fits}}

    plain = "timemixer-channel-mixing"
    assert trees(plain) == {"released": {f"released+{required}"}, "patched": {f"patched+{required}"}}
    assert trees(plain, required) == {"released": {f"released+{required}"}, "patched": {"patched"}}
    assert invoke("apply", plain, "--site-packages", site).exit_code == 0
    assert trees(source="installed") == {"released": {f"released+{required}"}, "installed": {f"installed+{required}"}}
    assert invoke("apply", required, "--site-packages", site).exit_code == 0
    assert trees(source="installed") == {"released": {f"released+{required}"}, "installed": {"installed"}}


def test_a_released_source_may_have_the_symptoms_of_a_missing_requirement(released: Callable[[str], Path]) -> None:
    catalog = load_catalog()
    (required,), (patch,) = catalog.select(["predict-on-one-device"]), catalog.select(["predict-on-all-devices"])
    assert required.symptoms
    assert not patch.symptoms
    fits = agenda_of(inspect_install(find_install(None, released("3.3.0")), catalog), patch.id).cases
    symptoms = {(fit.source, fit.expect): fit.symptoms for fit in fits if fit.patch == patch.id}
    assert symptoms == {("released", "wrong"): required.symptoms, ("patched", "pass"): ()}


def test_a_patch_whose_case_has_a_missing_requirement_is_unproved(released: Callable[[str], Path]) -> None:
    catalog = load_catalog()
    site = released("3.3.0")
    assert invoke("apply", "timemixer-channel-mixing", "--site-packages", site).exit_code == 0
    model = site / catalog.files_of(catalog.select(["multivariate-all-series"])[0], "3.3.0")[0]
    model.write_text("# ours\n" + model.read_text())
    agenda = agenda_of(
        inspect_install(find_install(None, site), catalog), "timemixer-channel-mixing", source="installed"
    )
    assert {fit.patch for fit in agenda.cases} <= {None}
    assert tuple(agenda.coverage.unproved) == agenda.coverage.missing == ("timemixer-channel-mixing",)
    assert str(model) in agenda.coverage.unproved["timemixer-channel-mixing"]


def test_plain_verify_proves_applied_patches_and_names_needed_ones(
    released: Callable[[str], Path],
) -> None:
    catalog = load_catalog()
    site = released("3.3.0")

    def proved_and_not(*names: str, **options: Any) -> tuple[set[str], set[str]]:
        agenda = agenda_of(inspect_install(find_install(None, site), catalog), *names, **options)
        return {fit.patch for fit in agenda.cases if fit.patch}, {*agenda.coverage.unproved}

    needed = {
        group: {patch.id for patch in patches if catalog.files_of(patch, "3.3.0") and not patch.opt_in}
        for group, patches in catalog.groups.items()
    }
    default = needed["unused-parameters"] | needed["multi-process"] | needed["search"]
    plain = {"source": "installed"}
    assert proved_and_not(**plain) == (set(), default)
    assert proved_and_not("spark", **plain) == (set(), needed["spark"])
    assert proved_and_not("scaler-revin", **plain) == ({"scaler-revin"}, set()), "what is named is shown in any case"
    assert proved_and_not()[0] | proved_and_not()[1] == default
    assert invoke("apply", "unused-parameters", "--site-packages", site).exit_code == 0
    assert proved_and_not(**plain) == (needed["unused-parameters"], default - needed["unused-parameters"])
    others = ("multi-process", "search")
    assert proved_and_not(**plain, skip=others) == (needed["unused-parameters"], set())
    assert invoke("apply", "multivariate-one-order", "--site-packages", site).exit_code == 0
    assert proved_and_not(**plain)[0] == needed["unused-parameters"] | {"multivariate-one-order"}


@pytest.mark.parametrize(
    ("release", "options", "patch", "words"),
    [
        ("3.3.0", {}, "spark-fit-from-weights", "--launcher spark"),
        ("3.3.0", {}, "spark-dbfs-paths", "--launcher spark"),
        ("3.3.0", {}, "mine-untrained", "it shows on Mondays"),
        ("3.3.0", {"launchers": ("spark",)}, "predict-on-one-device", "--launcher torchrun"),
        ("3.3.0", {}, "mine-elsewhere", "none of its cases"),
    ],
)
def test_an_unproved_patch_is_named_with_the_reason(
    release: str, options: dict[str, Any], patch: str, words: str, released: Callable[[str], Path]
) -> None:
    catalog = load_catalog()
    (some,) = catalog.select(["stemgnn-backcast"])
    nowhere = some._replace(id="mine-elsewhere", cases=tuple(case._replace(releases="<1") for case in some.cases))
    untrained = some._replace(id="mine-untrained", cases=(), why_no_cases="it shows on Mondays")
    catalog = catalog._replace(patches=(*catalog.patches, nowhere, untrained))
    found = inspect_install(find_install(None, released(release)), catalog)
    agenda = agenda_of(found, patch, source="installed", **options)
    assert tuple(agenda.coverage.unproved) == agenda.coverage.missing == (patch,)
    assert words in agenda.coverage.unproved[patch]


@pytest.mark.parametrize("release", ["1.4.0", "1.6.4", "1.7.4", "2.0.1", "3.1.9", "3.2.1", "3.3.0"])
def test_verify_without_names_proves_all_that_apply_writes(release: str, released: Callable[[str], Path]) -> None:
    """Also patches with only thorough cases in this release, within the default timeout; but not those through ray."""
    found = inspect_install(find_install(None, released(release)), load_catalog())
    agenda = agenda_of(found)
    for unproved, reason in agenda.coverage.unproved.items():
        (patch,) = found.catalog.select([unproved])
        assert {case.stage for case in patch.cases if case.is_possible_in(release)} == {"ray-search"}
        assert reason == "it takes --thorough"
    assert timeout_for(agenda) > 20 * len(agenda.cases), "some 3 s are what a fit takes on an idle machine"


def test_an_unproved_patch_fails_the_run_only_if_it_is_named(site: Path) -> None:
    where = ("--site-packages", site)
    named = invoke("verify", "spark-dbfs-paths", "--preview", "--json", *where)
    document = json.loads(named.stdout)
    assert (named.exit_code, document["ok"], document["proved"]) == (1, False, [])
    assert [patch["id"] for patch in document["unproved"]] == ["spark-dbfs-paths"]
    assert document["schema_version"] == 1
    assert invoke("verify", "spark-dbfs-paths", *where).stdout.splitlines()[-1].startswith("0 of 1 ")
    nothing = invoke("verify", *where)
    assert nothing.exit_code == 1, "an install that needs patches and has none is no proof"
    needed = len([patch for patch in load_catalog().default if load_catalog().files_of(patch, "1.7.4")])
    assert nothing.stdout.splitlines()[-1].startswith(f"0 of {needed} ")


def test_patches_that_change_training_are_on_both_sides_of_a_comparison(
    released: Callable[[str], Path],
) -> None:
    catalog = load_catalog()
    found = inspect_install(find_install(None, released("3.3.0")), catalog)

    def requirements(*patch_ids: str) -> set[tuple[str, ...]]:
        fits = agenda_of(found, *patch_ids).cases
        compared = {fit.like for fit in fits}
        return {fit.requires for fit in fits if fit.id in compared}

    assert requirements("tft-static-context", "windows-of-each-rank") == {()}
    assert requirements("tft-static-context", "multivariate-one-order") == {("multivariate-one-order",)}


def test_releases_without_optuna_are_proved_with_ray(released: Callable[[str], Path]) -> None:
    catalog = load_catalog()

    def searches(release: str, *names: str, **options: Any) -> set[tuple[str, str]]:
        found = inspect_install(find_install(None, released(release)), catalog)
        fits = agenda_of(found, *names, **options).cases
        return {(fit.case.model, fit.case.stage) for fit in fits if fit.case.is_search and fit.case.stage != "fit"}

    through_ray = {("AutoNHITS", "ray-search")}
    through_optuna = {("AutoNHITS", "search"), ("AutoTFT", "search")}
    assert searches("1.6.3", "search-by-one-rank") == through_ray
    assert searches("1.6.4", thorough=True) == {("AutoNBEATSx", "search")} | through_optuna | through_ray
    assert searches("3.1.9", "search", "ray-trial-on-one-device") == through_optuna | through_ray
    assert searches("3.1.9") == through_optuna


def test_one_of_two_patches_of_a_file_is_proved_against_the_released_file(site: Path) -> None:
    catalog = load_catalog()
    both = ["tft-static-context", "tft-static-encoder"]
    for one, other in (both, reversed(both)):
        for applied in ([], [other]):
            if applied:
                assert invoke("apply", *applied, "--site-packages", site).exit_code == 0
            agenda = agenda_of(inspect_install(find_install(None, site), catalog), one)
            original, patched = agenda.rewritten[TFT]
            known = catalog.fingerprints.file("1.7.4", TFT)
            assert known is not None
            assert (known.detect_patches(original), known.detect_patches(patched)) == (set(), {one, *applied})
            assert {fit.patch for fit in agenda.cases} == {one, None}
        assert invoke("revert", "--site-packages", site).exit_code == 0


@pytest.mark.ddp
def test_patches_that_only_spark_shows_are_named(site: Path, training_env: Path, tmp_path: Path) -> None:
    where = ("--python", training_env, "--site-packages", site, "--junit-xml", tmp_path / "proof.xml")
    result = invoke("verify", "--preview", "spark", "nbeatsx-unused-out", *where, "--json")

    document = json.loads(result.stdout)
    spark = [p.id for p in load_catalog().groups["spark"] if load_catalog().files_of(p, "1.7.4")]
    assert (result.exit_code, document["proved"]) == (0, ["nbeatsx-unused-out"])
    assert [patch["id"] for patch in document["unproved"]] == spark
    assert ElementTree.parse(tmp_path / "proof.xml").getroot().get("skipped") == str(len(spark))


def test_without_needed_patches_there_is_nothing_to_prove(released: Callable[[str], Path]) -> None:
    site = released("1.7.6")
    (site / NBEATSX).unlink()
    result = invoke("verify", "nbeatsx-unused-out", "--site-packages", site)
    assert result.exit_code == 0
    assert "not needed: nbeatsx-unused-out" in result.stdout
    assert "Nothing to prove." in result.stdout
    document = answer("verify", "nbeatsx-unused-out", "--site-packages", site)
    assert (document["ok"], document["cases"], document["unproved"]) == (True, [], [])
    assert [patch["id"] for patch in document["not_needed"]] == ["nbeatsx-unused-out"]


def test_without_torch_verify_is_an_environment_error(site: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    python = tmp_path / "bare" / "bin" / "python"
    result = invoke("verify", "--preview", *BASIC_PATCHES, "--python", python, "--site-packages", site)
    assert result.exit_code == 4
    assert "torch" in result.stderr
    assert "pip install" in result.stderr
    assert len(result.stderr.splitlines()) == 1, "and not that something is being trained"


def test_an_unwritable_report_is_an_error_before_any_training(site: Path, tmp_path: Path) -> None:
    result = invoke("verify", "--preview", "--html", tmp_path / "missing" / "proof.html", "--site-packages", site)
    assert result.exit_code == 4
    assert str(tmp_path / "missing") in result.stderr


def test_without_neuralforecast_verify_is_an_environment_error(tmp_path: Path) -> None:
    result = invoke("verify", "--site-packages", tmp_path)
    assert result.exit_code == 4
    assert "No neuralforecast was found" in result.stderr


def test_an_interrupted_install_is_not_verified(site: Path) -> None:
    staging = next(site.glob("*.dist-info")) / "nfpatch" / "staging"
    staging.mkdir(parents=True)
    (staging / "journal.json").write_text("[]")
    result = invoke("verify", "--site-packages", site)
    assert result.exit_code == 3
    assert "nfpatch apply" in result.stderr


@pytest.mark.ddp
def test_stages_are_proved_with_the_chosen_launcher(site: Path, training_env: Path) -> None:
    where = ("--python", training_env, "--site-packages", site, "--launcher", "script", "--launcher", "fork")
    patches = ("predict-on-one-device", "save-by-one-rank", "tft-static-encoder")

    proved = answer("verify", *patches, "--preview", *where)
    assert proved["ok"] is True
    assert {case["launcher"] for case in proved["cases"]} == {"script", "fork"}
    assert {case["world_size"] for case in proved["cases"]} == {2}
    cases = {case["id"]: case for case in proved["cases"]}
    predicted = cases["predict-on-one-device/NHITS/predict/released/predict/fork"]
    assert (predicted["outcome"], predicted["ok"], predicted["launcher"]) == ("error", True, "fork")
    assert "must be tuple of Tensors, not NoneType" in predicted["detail"]
    refused = cases["tft-static-encoder/TFT/no static features/released/strict-ddp/fork"]
    assert (refused["outcome"], len(refused["unused_parameters"]), refused["ok"]) == ("unused-parameters", 41, True)
    reds = {(case["stage"], case["launcher"]) for case in proved["cases"] if case["expect"] != "pass"}
    assert reds == {("predict", "script"), ("predict", "fork"), ("save", "script"), ("fit", "script"), ("fit", "fork")}


def test_several_nodes_require_torchrun(site: Path) -> None:
    nodes = ("--nnodes", "2", "--rdzv-endpoint", "node-a:29400", "--launcher", "script")
    refused = invoke("verify", *nodes, "--site-packages", site)
    assert refused.exit_code == 2
    assert "remove --launcher or --nnodes" in refused.stderr


def test_spark_is_proved_on_the_cpu(site: Path) -> None:
    refused = invoke("verify", "--launcher", "spark", "--accelerator", "gpu", "--site-packages", site)
    assert refused.exit_code == 2
    assert "remove --accelerator gpu or --launcher spark" in refused.stderr


def test_spark_has_its_own_cases(released: Callable[[str], Path]) -> None:
    catalog = load_catalog()
    found = inspect_install(find_install(None, released("3.1.9")), catalog)
    agenda = agenda_of(found, "all", launchers=("torchrun", "spark"))
    on_spark = {fit.patch for fit in agenda.cases if fit.launcher == "spark"}
    assert on_spark == {
        "spark-dbfs-paths",
        "spark-fit-from-weights",
        "spark-predict-scalers",
        "spark-series-of-ranks",
        "spark-trainer-arguments",
        "spark-validation-loss",
        None,
    }
    assert not {fit.patch for fit in agenda.cases if fit.launcher == "torchrun"} & (on_spark - {None})

    asked_for = agenda_of(found, "tft-static-context", launchers=("spark",))
    fits = {(fit.case.model, fit.source): fit for fit in asked_for.cases}
    assert (fits["TFT", "released"].expect, fits["TFT", "patched"].expect) == ("unused-parameters", "pass")
    # Spark cannot predict in this release without another patch, which is not applied
    assert fits["TFT", "patched"].forecast == "alone"


def test_the_output_names_the_launcher_and_it_trains_once(site: Path) -> None:
    catalog = load_catalog()
    found = inspect_install(find_install(None, site), catalog)
    agenda = agenda_of(found, "predict-on-one-device", launchers=("script", "fork", "script"))
    results = tuple(result_without_calls(case, "error", "") for case in agenda.cases)
    assert len({result.id for result in results}) == len(results)
    report = ProofReport(None, None, None, 0.0, results)
    assert [title for title, _ in groups(report)] == [
        "NHITS, predict, by script",
        "NHITS (control), by script",
        "NHITS, predict, by fork",
        "NHITS (control), by fork",
    ]
