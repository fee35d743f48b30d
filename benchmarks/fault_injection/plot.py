"""A picture of the times to hold: every injection a dot, the median a line, the bound a mark."""

from pathlib import Path


def plot(results: dict, path: Path) -> None:
    """Writes the picture; rows without a time are not in it."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    rows = [row for row in results["rows"] if row["hold_ms"]]
    figure, axes = plt.subplots(figsize=(9.5, 1.4 + 0.24 * len(rows)), layout="constrained")
    spread = np.random.default_rng(0)
    for place, row in enumerate(rows):
        times = np.array(row["times_ms"])
        late = times > (row["bound_ms"] or np.inf)
        heights = place + spread.uniform(-0.25, 0.25, len(times))
        axes.scatter(times, heights, s=9, alpha=0.5, linewidths=0, c=np.where(late, "tab:red", "tab:blue"))
        axes.plot([row["hold_ms"]["median"]] * 2, [place - 0.38, place + 0.38], color="black", linewidth=1.4)
        if row["bound_ms"]:
            axes.plot([row["bound_ms"]] * 2, [place - 0.42, place + 0.42], color="tab:red", linewidth=2.0)
    axes.set_yticks(range(len(rows)), [f"{row['fault']}  ({row['row']})" for row in rows], fontsize=7.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xscale("log")
    ticks = [10, 20, 50, 100, 200, 500, 1000, 2000]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.set_xlabel("milliseconds from the fault to the report of a hold")
    for name in ("top", "right"):
        axes.spines[name].set_visible(False)
    axes.plot([], [], color="black", label="median")
    axes.plot([], [], color="tab:red", linewidth=2.0, label="bound")
    axes.scatter([], [], s=9, c="tab:blue", label="one injection")
    figure.legend(loc="outside upper right", ncols=3, frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
