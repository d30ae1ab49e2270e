"""``geomfast doctor``: findings as table and JSON, exit codes."""

import json

import pytest
from click.testing import CliRunner

from geomfast.cli import doctor as module
from geomfast.cli.main import main
from geomfast.kernels.self_test import SelfTest

KERNELS = (
    "singular_values",
    "rankme",
    "gradient_gram",
    "sgld normals",
    "sgld_step",
    "sgld_step sums",
    "adamw_step",
    "row_attention",
    "row_attention backward",
    "row_attention with slopes",
    "row_attention with slopes backward",
    "member_norm",
    "member_norm backward",
    "tangents of layer_norm",
    "tangents of gelu",
    "tangents of cross_entropy",
    "tangents of attention",
)


def test_json_names_compilers_backends_and_self_tests() -> None:
    result = CliRunner().invoke(main, ["doctor", "--json"])
    assert result.exit_code == 0, result.output
    findings = json.loads(result.output)
    assert {"c++", "nvcc"} == set(findings["compilers"])
    assert "reference" in [backend["name"] for backend in findings["backends"]]
    tested = findings["self_tests"]
    assert all(test["passed"] for test in tested)
    # The reference and at least one other backend of every kernel.
    for kernel in KERNELS:
        backends = {test["backend"] for test in tested if test["kernel"].startswith(kernel)}
        assert len(backends) > 1 and "reference" in backends, kernel


def test_the_table_is_for_people() -> None:
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 0, result.output
    assert "Backends" in result.output
    assert "passed" in result.output


def test_a_kernel_that_disagrees_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = [SelfTest("singular_values", "cpu", 0.5, 1e-7, False)]
    monkeypatch.setattr("geomfast.kernels.self_test.self_test", lambda: wrong)
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 1
    assert "FAILED" in result.output


def test_a_compiler_that_is_not_there_is_none() -> None:
    assert module._version("no-such-compiler") is None


@pytest.mark.parametrize(
    ("missing", "nvcc", "code"),
    [("_cpu", None, 1), ("_cuda", "release 13.0", 1), ("_cuda", None, 0), ("", "release 13.0", 0)],
)
def test_strict_fails_where_something_could_have_been_built(
    monkeypatch: pytest.MonkeyPatch, missing: str, nvcc: str | None, code: int
) -> None:
    def reason(name: str) -> str:
        return "not built" if name == missing else ""

    monkeypatch.setattr("geomfast.kernels.missing_reason", reason)
    monkeypatch.setattr("geomfast.cli.doctor._version", lambda name: nvcc)
    monkeypatch.setattr("geomfast.kernels.self_test.self_test", lambda: [])
    assert CliRunner().invoke(main, ["doctor"]).exit_code == 0
    assert CliRunner().invoke(main, ["doctor", "--strict"]).exit_code == code
