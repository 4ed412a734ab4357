"""Draws docs/restart.svg: deliveries around a restart under load, as boot.py measured them last.

`python -m tests.boot_plot` after `make boot`.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Final

import matplotlib.pyplot as plt

from tests.shell import CHECKOUT

STEP_S: Final = 0.1


def main() -> None:
    found = json.loads((CHECKOUT / ".cache/boot.json").read_text(encoding="utf-8"))["restart_under_load"]
    counts = Counter(int(at // STEP_S) for at in found["timeline"])
    steps = range(min(counts), max(counts) + 1)
    figure, axes = plt.subplots(figsize=(8, 3))
    axes.step([step * STEP_S for step in steps], [counts[step] / STEP_S for step in steps], where="post", linewidth=1)
    axes.axvspan(0, found["restart_s"], color="tab:orange", alpha=0.25, label="systemctl restart")
    axes.set(xlabel="seconds", ylabel="deliveries a second", title=f"Gap in delivery: {found['gap_s']:.2f} s")
    axes.legend()
    figure.tight_layout()
    figure.savefig(CHECKOUT / "docs/restart.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
