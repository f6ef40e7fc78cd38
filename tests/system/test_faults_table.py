"""The table of faults is whole: every fault has a test that really produces it, or the reason why none does."""

from __future__ import annotations

import inspect
from types import ModuleType

import pytest
import test_cluster_check
import test_faults_cluster
import test_faults_firewalld
import test_faults_host
import test_guest_check
import test_host_check

from contrib.troubleshooting import GROUPS, SYMPTOMS
from lab import fault_report
from lab.faults import FAULTS, NOTHING, Case

MODULES: dict[str, ModuleType] = {
    f"{module.__name__}.py": module
    for module in (
        test_host_check,
        test_guest_check,
        test_cluster_check,
        test_faults_host,
        test_faults_firewalld,
        test_faults_cluster,
    )
}
CASES = [case for fault in FAULTS for case in fault.cases]


def test_every_fault_is_produced_or_excused() -> None:
    assert [fault.number for fault in FAULTS if bool(fault.cases) == bool(fault.reason)] == []
    # Numbers that no fault has.
    assert set(range(43)) - {fault.number for fault in FAULTS} == {26, 28, 37, 38, 39, 40, 41}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.test)
def test_the_test_is_there_and_expects_the_code(case: Case) -> None:
    file, _, name = case.test.partition("::")
    function, _, injection = name.partition("[")
    test = getattr(MODULES[file], function)
    if injection:
        assert MODULES[file].MISTAKES[injection.rstrip("]")][0] == case.code
    elif case.code != NOTHING:
        assert f'"{case.code}"' in inspect.getsource(test)


@pytest.mark.parametrize("case", [case for case in CASES if case.code], ids=lambda case: case.test)
def test_the_documents_lead_to_the_code(case: Case) -> None:
    assert case.code in {check.code for check in GROUPS[case.command]}
    assert any(case.code in symptom.codes for symptom in SYMPTOMS)


def test_the_worst_outcome_of_a_test_counts() -> None:
    one, other = FAULTS[1].cases[0], FAULTS[2].cases[0]
    reports = [
        (f"tests/system/{other.test}[reference-drop]", "failed"),
        (f"tests/system/{one.test}", "passed"),
        (f"tests/system/{other.test}[ours-drop]", "passed"),
        ("tests/unit/test_cib.py::test_other", "failed"),
    ]
    outcomes = fault_report.outcomes_of(reports)
    assert outcomes == {one: "passed", other: "failed"}
    lines = list(fault_report.lines(outcomes))
    assert [line.split()[0] for line in lines if other.injection in line] == ["NOT"]
    assert [line.split()[:3] for line in lines if line.endswith(one.injection)] == [["found", "host", "host-firewall"]]
    assert lines[-1] == f"{len(CASES) - 2} of {len(CASES)} cases not run"
