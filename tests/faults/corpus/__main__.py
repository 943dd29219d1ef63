"""python -m tests.faults.corpus [NAME ...] [--keep FOLDER]: the table of docs/fault-corpus.md, measured."""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path

from tests.faults.corpus import project
from tests.faults.corpus.catalogue import FAULTS, GITHUB, by_name

SEEDS = range(5)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.corpus", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these faults")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="build the project here, and leave it")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    faults = [by_name(n) for n in options.names] or list(FAULTS)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        project.build(folder, faults)
        verdicts, text = project.run(folder, faults)
        naive = {f.name: sum(project.one_random_input(folder, f, s) for s in SEEDS) for f in faults}
    print("| fault | thread | cell | default profile | by | seconds | one random input finds it |")
    print("| --- | --- | --- | --- | --- | ---: | :-: |")
    for v in verdicts:
        thread = f"[{v.fault.thread}]({GITHUB}{v.fault.thread})"
        said = f"**{v.cell.state}**" if v.found else f"missed ({v.cell.state})"
        times = f"{naive[v.fault.name]} of {len(SEEDS)}"
        print(f"| `{v.fault.name}`: {v.fault.sentence} | {thread} | {v.fault.cell} | {said} | {', '.join(v.kinds)} | "
              f"{v.cell.seconds or 0:.1f} | {times} |")  # fmt: skip
    found = sum(v.found for v in verdicts)
    alarms = [v.fault.name for v in verdicts if v.right is not None and v.right.state != "pass"]
    rights = sum(v.right is not None for v in verdicts)
    print(f"\n{found} of {len(verdicts)} found by the default profile, the slowest in "
          f"{max(v.cell.seconds or 0 for v in verdicts):.1f} s.")  # fmt: skip
    print(f"{sum(n > 0 for n in naive.values())} found by one random input and allclose, with the luckiest of "
          f"{len(SEEDS)} seeds; {sum(n == len(SEEDS) for n in naive.values())} with every seed.")  # fmt: skip
    print(f"{len(alarms)} of {rights} right artefacts do not pass{': ' if alarms else ''}{', '.join(alarms)}.")
    for v in verdicts:
        if not v.found or (v.right is not None and v.right.state != "pass"):
            print(f"  {v.fault.name}: {v.cell.state} {v.cell.reason}; right: {v.right.state if v.right else '-'} "
                  f"{v.right.reason if v.right else ''}")  # fmt: skip
    print(text[-300:])


if __name__ == "__main__":
    main()
