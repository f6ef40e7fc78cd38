"""docs/troubleshooting.md is what the checks say, and leads from symptoms to codes that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from contrib import troubleshooting
from contrib.troubleshooting import GROUPS, SYMPTOMS, Symptom

ROOT = Path(__file__).parent.parent.parent
DOCUMENT = ROOT / "docs" / "troubleshooting.md"
CODES = {check.code for checks in GROUPS.values() for check in checks}


def test_the_document_is_that_of_the_checks() -> None:
    mend = "python -m contrib.troubleshooting > docs/troubleshooting.md"
    assert DOCUMENT.read_text() == troubleshooting.document(), f"run: {mend}"


@pytest.mark.parametrize("symptom", SYMPTOMS, ids=lambda symptom: symptom.sees)
def test_symptoms_lead_to_codes(symptom: Symptom) -> None:
    assert symptom.codes and set(symptom.codes) <= CODES
    assert len(set(symptom.codes)) == len(symptom.codes)
    assert "|" not in symptom.sees + symptom.cause  # which would end the column


def test_every_link_leads_to_a_heading() -> None:
    text = DOCUMENT.read_text()
    headings = set(re.findall(r"^### (\S+)$", text, re.MULTILINE))
    assert headings == CODES
    assert set(re.findall(r"\(#([^)]*)\)", text)) <= headings


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_others_lead_to_the_document(name: str) -> None:
    assert "docs/troubleshooting.md" in (ROOT / name).read_text()
