"""The public JSON-Schema-Test-Suite, where FORERUN_JSON_SCHEMA_SUITE names its folder (the source of the package
jsonschema holds it as json/): no value that a schema forbids is taken, and what is not supported is refused by name."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from tests.grammar.vocabulary import refusal, takes

SUITE = os.environ.get("FORERUN_JSON_SCHEMA_SUITE", "")
DRAFT_7_ALONE = {"$ref prevents a sibling $id from changing the base uri"}
"""Schemas that do not say their draft, and mean something else in 2020-12, which is taken for them."""


@pytest.mark.skipif(not SUITE, reason="FORERUN_JSON_SCHEMA_SUITE is not set")
@pytest.mark.parametrize("draft", ["draft2020-12", "draft7"])
def test_nothing_is_taken_that_a_schema_forbids(draft: str) -> None:
    counted: Counter[str] = Counter()
    files = sorted(Path(SUITE, "tests", draft).glob("*.json"))
    assert len(files) > 30
    for group in (group for file in files for group in json.loads(file.read_text("utf-8"))):
        form = {"json": json.dumps(group["schema"])}
        if group["description"] in DRAFT_7_ALONE:
            continue
        if why := refusal(form):
            assert "\n" not in why
            counted["schemas refused"] += 1
            continue
        counted["schemas taken"] += 1
        for case in group["tests"]:
            taken = takes(form, json.dumps(case["data"], ensure_ascii=False))
            assert case["valid"] or not taken, (group["description"], case["description"])
            counted[f"{'valid' if case['valid'] else 'forbidden'} {'taken' if taken else 'not taken'}"] += 1
    print(dict(counted))
    assert counted["schemas taken"] > 100 and counted["valid taken"] > 10 * counted["valid not taken"]
