"""A run's report: one HTML page of everything, pictures included, without the network."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import PurePath

_MEDIA_TYPES = {".png": "image/png", ".gif": "image/gif"}

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff;
       max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin: 0; }
h2 { font-size: 1.15rem; margin: 2rem 0 .6rem; border-bottom: 1px solid #ccc; }
p.ending { padding: .6rem .9rem; border-left: .4rem solid; }
p.good { border-color: #2e7d32; background: #eef6ee; }
p.bad { border-color: #b3261e; background: #fbeeed; }
table { border-collapse: collapse; }
th, td { text-align: left; padding: .2rem 1.4rem .2rem 0; vertical-align: top;
         border-bottom: 1px solid #eee; }
th { font-weight: 600; white-space: nowrap; }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
figure { margin: 1.2rem 0; }
img { max-width: 100%; height: auto; border: 1px solid #ccc; }
figcaption { color: #555; font-size: .9rem; }
pre { background: #f5f5f5; padding: .7rem .9rem; overflow-x: auto; font-size: .82rem;
      line-height: 1.4; }
pre.command { white-space: pre-wrap; }
"""


@dataclass(frozen=True)
class Picture:
    """A picture of the report.

    Attributes
    ----------
    name
        Its file name, which ends in ``.png`` or ``.gif``.
    content
        The bytes of that file.
    caption
        A sentence below it.
    """

    name: str
    content: bytes
    caption: str


@dataclass(frozen=True)
class Report:
    """The contents of a report page.

    Attributes
    ----------
    title, summary
        The problem.
    ending
        How the run ended, in a sentence.
    successful
        Whether that was the end one hopes for; decides about green or red.
    numbers
        The numbers of the last iteration by name, as text.
    pictures
        From top to bottom.
    gradient
        The gradient's verdict and where it was judged; empty when the run ended before there was
        one.
    settings
        Name, value and meaning of each.
    command
        The command that repeats the run.
    files
        Name and meaning of the files next to the report.
    provenance
        Date, time, versions and machine.
    """

    title: str
    summary: str
    ending: str
    successful: bool
    numbers: Mapping[str, str]
    pictures: Sequence[Picture]
    gradient: str
    settings: Sequence[tuple[str, str, str]]
    command: str
    files: Sequence[tuple[str, str]]
    provenance: Mapping[str, str]


def report_page(report: Report) -> str:
    """The report as one HTML page.

    Parameters
    ----------
    report
        What it says. Every text is escaped.

    Returns
    -------
    html
        A page without a link to any other file.

    Examples
    --------
    >>> page = report_page(
    ...     Report("beam", "A beam.", "Converged.", True, {"c": "1 < 2"}, (), "", (), "run", (), {})
    ... )
    >>> "<td>1 &lt; 2</td>" in page.replace(' class="number"', "")
    True
    """
    kind = "good" if report.successful else "bad"
    sections = [
        f"<h1>{escape(report.title)}</h1>",
        f"<p>{escape(report.summary)}</p>",
        f'<p class="ending {kind}">{escape(report.ending)}</p>',
        _section("Last iteration", _table(report.numbers.items())),
        *(_figure(picture) for picture in report.pictures),
        _section("Gradient", _preformatted(report.gradient, "table")),
        _section("Settings", _table(report.settings)),
        _section("Repeat it", _preformatted(report.command, "command")),
        _section("Files", _table(report.files)),
        _section("Made with", _table(report.provenance.items())),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(report.title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(section for section in sections if section)
        + "\n</body>\n</html>\n"
    )


def _section(heading: str, content: str) -> str:
    return f"<h2>{escape(heading)}</h2>\n{content}" if content else ""


def _table(rows) -> str:
    lines = []
    for name, value, *meaning in rows:
        cells = f'<th scope="row">{escape(name)}</th><td class="number">{escape(value)}</td>'
        cells += "".join(f"<td>{escape(text)}</td>" for text in meaning)
        lines.append(f"<tr>{cells}</tr>")
    return "<table>\n" + "\n".join(lines) + "\n</table>" if lines else ""


def _preformatted(text: str, kind: str) -> str:
    return f'<pre class="{kind}">{escape(text)}</pre>' if text else ""


def _figure(picture: Picture) -> str:
    media_type = _MEDIA_TYPES[PurePath(picture.name).suffix]
    data = base64.b64encode(picture.content).decode()
    caption = escape(picture.caption)
    return (
        f'<figure>\n<img src="data:{media_type};base64,{data}" alt="{caption}">\n'
        f"<figcaption>{caption}</figcaption>\n</figure>"
    )
