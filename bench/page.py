"""The report as one page to open: report.html with the table, the goals, the pictures, the machine and the command, all
in one file. The pictures stand beside it as well. Called by the command line at the end of a run.
"""

import base64
import html
import io
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from bench import curves, machine, plot, report
from bench.figures import Outcome
from bench.goals import Verdict

WIDTH = 150
PICTURES: tuple[tuple[str, str, Callable[[Sequence[Outcome], Path], bool]], ...] = (
    ("rows.png", "Every row", plot.draw_rows),
    ("growth.png", "How it grows", curves.draw_growth),
    ("time.png", "Throughput and CPU over time", curves.draw_over_time),
)
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>chatd: {title}</title><style>
body {{ font-family: sans-serif; margin: 2em auto; max-width: 90em; padding: 0 1em }}
pre {{ font-family: monospace; font-size: 13px; line-height: 1.25; overflow-x: auto }}
img {{ max-width: 100% }}
</style></head><body>
<h1>chatd: {title}</h1>
<p>{machine}</p>
<p>Again: <code>{command}</code></p>
{pictures_first}
<pre>{tables}</pre>
{pictures}
{flames}
<h2>Versions</h2>
<p>{versions}</p>
</body></html>
"""


def write(
    folder: Path, outcomes: Sequence[Outcome], verdicts: Sequence[Verdict], skipped: dict[str, str], command: str
) -> Path:
    """Writes report.html and the pictures into the folder."""
    page = Console(record=True, file=io.StringIO(), width=WIDTH, force_terminal=True, highlight=False)
    report.print_report(outcomes, verdicts, skipped, page)
    drawn = [
        f'<h2>{title}</h2>\n<img alt="{title}" src="data:image/png;base64,{inline(folder / name)}">'
        for name, title, draw in PICTURES
        if draw(outcomes, folder / name)
    ]
    what = machine.description()
    versions = what.pop("versions")
    path = folder / "report.html"
    path.write_text(
        PAGE.format(
            title=html.escape(folder.name),
            machine=html.escape(named(what)),
            command=html.escape(command),
            pictures_first="\n".join(drawn[:1]),
            tables=page.export_html(inline_styles=True, code_format="{code}"),
            pictures="\n".join(drawn[1:]),
            flames="\n".join(f'<p><a href="{path.name}">{path.name}</a></p>' for path in sorted(folder.glob("*.svg"))),
            versions=html.escape(named(versions)),
        )
    )
    return path


def named(things: object) -> str:
    return " · ".join(f"{name} {value}" for name, value in things.items()) if isinstance(things, dict) else str(things)


def inline(picture: Path) -> str:
    return base64.b64encode(picture.read_bytes()).decode()
