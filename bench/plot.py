"""What does latency look like as the host holds more connections?  Draws bench/latency.svg from bench/latency.json.

    python3 -m bench.plot [--json FILE] [--output FILE]

`bench.daemon --json` writes the figures; this needs matplotlib (the extra `bench`) and neither root nor a server.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent

#: (server, figure, label, colour, line style): one colour for a server, so that the eye pairs the lines.
LINES = (
    ("oidentd", "miss_ms", "oidentd, finds nothing", "#b5651d", "-"),
    ("oidentd", "hit_ms", "oidentd, finds the owner", "#b5651d", "--"),
    ("identd", "hit_ms", "identd, finds the owner", "#1f5fa8", "--"),
    ("identd", "miss_ms", "identd, finds nothing", "#1f5fa8", "-"),
)

#: Points of type between two labels at the lines' right ends, at least.
_LABEL_POINTS = 15.0


def draw(found: dict[str, Any], output: Path) -> None:
    """Draw the figures of `bench.daemon` into a file; its suffix names the format."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    pyplot.rcParams.update({"font.size": 11, "svg.hashsalt": "identd", "svg.fonttype": "none"})
    figure, axes = pyplot.subplots(figsize=(8, 4.6))
    counts = [point["connections"] for point in found["points"]]
    axes.set(xscale="log", yscale="log")
    ends = []
    for server, key, label, colour, style in LINES:
        values = [point[server][key] for point in found["points"]]
        axes.plot(counts, values, style, color=colour, linewidth=2, marker="o", markersize=4.5)
        ends.append((values[-1], label, colour))
    axes.set_ylim(10 ** -1.15, None)
    axes.grid(True, which="major", color="#e4e4e4", linewidth=0.8)
    axes.minorticks_off()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("connections on the host")
    axes.set_ylabel("milliseconds, connect to reply")
    axes.set_title("One query at a time: median latency of the warm process", loc="left", fontsize=12)
    figure.tight_layout()
    figure.subplots_adjust(right=0.74)
    label_ends(axes, counts[-1], ends)
    versions = found["versions"]
    figure.text(
        0.995, 0.012, f"identd {versions['identd']}, Python {versions['Python']}; oidentd {versions['oidentd']};"
        f" Linux {versions['Linux'].partition('-')[0]}", ha="right", fontsize=7.5, color="#888888",
    )  # fmt: skip
    metadata = {"Date": None} if output.suffix == ".svg" else None
    figure.savefig(output, metadata=metadata, dpi=110)


def label_ends(axes: Any, x: float, ends: list[tuple[float, str, str]]) -> None:
    """Write each line's label at its right end, moved up where it would cover the one below."""
    points = 72 / axes.figure.dpi
    lowest = float("-inf")
    for value, label, colour in sorted(ends):
        own = axes.transData.transform((x, value))[1] * points
        lowest = max(own, lowest + _LABEL_POINTS)
        axes.annotate(
            label, (x, value), xytext=(9, lowest - own), textcoords="offset points",
            va="center", color=colour, annotation_clip=False,
        )  # fmt: skip


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=HERE / "latency.json", help="(default: %(default)s)")
    parser.add_argument("--output", type=Path, default=HERE / "latency.svg", help="(default: %(default)s)")
    options = parser.parse_args()
    try:
        found = json.loads(options.json.read_text())
        draw(found, options.output)
    except ImportError:
        print("missing: matplotlib (pip install '.[bench]')", file=sys.stderr)
        return 2
    except FileNotFoundError as error:
        print(f"missing: {error.filename} (bench.daemon --json writes it)", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
