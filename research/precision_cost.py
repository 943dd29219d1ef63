"""What do right files lose by their precision? The evidence behind the default limit of `precision_cost`.

    python research/precision_cost.py

Reads `natural.csv`, which has a line for each output of each correct export and flavour of twin, and runs nothing. The
cost is the file's error over the output's rms, but no more than the twin's; of several twins the nearest counts.
"""

from __future__ import annotations

import csv
import statistics
from collections import defaultdict
from pathlib import Path

LINES = Path(__file__).with_name("natural.csv")


def costs() -> dict[str, dict[tuple[str, str, str], float]]:
    """By precision: (model, target, output) -> share of the output's rms."""
    found: dict[str, dict[tuple[str, str, str], float]] = defaultdict(dict)
    with LINES.open(encoding="utf-8") as file:
        for line in csv.DictReader(file):
            if line["proof"].startswith(("failed", "no answer")):
                continue
            floor = float(line["floor"])
            cost = min(floor, floor * float(line["pooled"]))
            key = line["model"], line["target"], line["output"]
            found[line["precision"]][key] = min(cost, found[line["precision"]].get(key, cost))
    return found


def main() -> None:
    print("| precision | outputs | median | 90 of 100 | largest | of |\n| --- | ---: | ---: | ---: | ---: | --- |")
    for precision, by_output in costs().items():
        ranked = sorted(by_output.values())
        most = max(by_output, key=lambda key: by_output[key])
        figures = statistics.median(ranked), ranked[int(0.9 * len(ranked))], ranked[-1]
        told = " | ".join(f"{100 * share:.2g} %" for share in figures)
        print(f"| {precision} | {len(ranked)} | {told} | {most[0]}, {most[1]} |")


if __name__ == "__main__":
    main()
