"""Write the JSON schema of records again, from their dataclasses: `make schemas`, after a field of a record changed.

That of settings (`parity/config/schema.json`) is written by hand, and tests hold it against what is read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from parity.core.record import SCHEMA, RunRecord

FILE = Path(__file__).parents[1] / "parity" / "core" / "schema.json"


def record() -> str:
    """The schema as JSON text: strict, as records are read, and without pydantic's titles."""
    made = TypeAdapter(RunRecord).json_schema(ref_template="#/definitions/{model}")
    definitions = {name: _strict(table) for name, table in sorted(made.pop("$defs").items())}
    whole = _strict(made)
    whole["required"] = sorted({*whole["required"], "schema"})
    whole["properties"]["schema"] = {"const": SCHEMA}
    about = {"$schema": "http://json-schema.org/draft-07/schema#", "title": "parity.json"}
    about["description"] = "The record of a run of pytest -m parity."
    return json.dumps({**about, **whole, "definitions": definitions}, indent=1) + "\n"


def _strict(table: dict[str, Any]) -> dict[str, Any]:
    properties = {name: _untitled(value) for name, value in table["properties"].items()}
    rest = {key: value for key, value in table.items() if key not in ("title", "properties", "description")}
    return {**rest, "additionalProperties": False, "properties": properties}


def _untitled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _untitled(item) for key, item in value.items() if not (key == "title" and isinstance(item, str))}
    return [_untitled(item) for item in value] if isinstance(value, list) else value


if __name__ == "__main__":
    FILE.write_text(record(), encoding="utf-8")
    print(FILE)
