"""What power of the whole zoo takes, and whether two runs of it found the same.

    python benchmarks/power.py run [--models skin] [--workers 2] [--cache DIR] [--keep FILE]
    python benchmarks/power.py compare BEFORE AFTER

`run` is `pytest -m parity_power` with everything else in the cache: a first `pytest -m parity --parity-cache=DIR` fills
it. Bars: 300 s on two idle cores, and 600 s of CPU, which a busy machine changes little. `--keep` saves the record.
`compare` names every fault whose fate differs between two saved records, and every other benign change that raised an
alarm; its exit code is 1 where there is any.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from overhead import judged, run, show

WALL, CPU = 300.0, 600.0


def cells(record: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The power of each cell that has one."""
    return {c["id"]: c["power"] for c in record["cells"] if c["power"]}


def table(record: Mapping[str, Any]) -> None:
    """A line a cell, the longest first."""
    print("\n| cell | noticed of injected | equivalent | alarms | test s | survivors |")
    print("| --- | --- | --- | --- | --- | --- |")
    found = cells(record)
    for cell in sorted((c for c in record["cells"] if c["id"] in found), key=lambda c: -(c["seconds"] or 0)):
        p = found[cell["id"]]
        print(f"| `{cell['id']}` | {p['killed']} / {p['injected']} | {p['equivalent']} | {len(p['false_alarms'])} | "
              f"{cell['seconds'] or 0:.1f} | {', '.join(p['survivors'])} |")  # fmt: skip
    killed, injected = (sum(p[name] for p in found.values()) for name in ("killed", "injected"))
    print(f"\n{len(found)} cells: {killed} of {injected} faults noticed")


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether every fault of every cell had the same fate, and the same benign changes raised alarms."""
    old, new = cells(before), cells(after)
    same = True
    for cell in sorted({*old, *new}):
        if cell not in old or cell not in new:
            print(f"{cell}: only {'after' if cell in new else 'before'}")
            same = False
            continue
        fates = [{f["fault"]: f["fate"] for f in p["fates"]} for p in (old[cell], new[cell])]
        alarms = [{a.partition(":")[0]: "alarm" for a in p["false_alarms"]} for p in (old[cell], new[cell])]
        for was, now in (fates, alarms):
            for fault in sorted({*was, *now}):
                if was.get(fault) != now.get(fault):
                    print(f"{cell}: {fault}: {was.get(fault, 'absent')} -> {now.get(fault, 'absent')}")
                    same = False
    print(f"{len(new)} cells, {sum(len(p['fates']) for p in new.values())} fates: "
          f"{'all the same' if same else 'not the same'}")  # fmt: skip
    return same


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    measure = commands.add_parser("run")
    measure.add_argument("--models", default="")
    measure.add_argument("--workers", type=int, default=2)
    measure.add_argument("--cache", default="")
    measure.add_argument("--keep", type=Path)
    pair = commands.add_parser("compare")
    pair.add_argument("before", type=Path)
    pair.add_argument("after", type=Path)
    given = parser.parse_args()
    if given.what == "compare":
        return 0 if compare(*(json.loads(p.read_text(encoding="utf-8")) for p in (given.before, given.after))) else 1
    options = [f"--parity-{n}={v}" for n, v in (("models", given.models), ("cache", given.cache)) if v]
    with tempfile.TemporaryDirectory(prefix="parity-power-") as folder:
        cost = run(Path(folder), given.workers, options, "parity_power")
    if given.keep:
        given.keep.write_text(json.dumps(cost.record), encoding="utf-8")
    show(f"power, {given.workers} workers", cost, 16)
    table(cost.record)
    good = judged("wall seconds", cost.wall, WALL)
    return 0 if judged("CPU seconds", cost.cpu, CPU) and good else 1


if __name__ == "__main__":
    sys.exit(main())
