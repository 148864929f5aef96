"""The report: a page that parses, with all texts escaped and all pictures, and self-contained."""

import base64
from html.parser import HTMLParser

import pytest

from adjoint.run.figures import density_png
from adjoint.run.report import Picture, Report, report_page

VOID = {"meta", "img", "link", "br"}
EVIL = "a <b> & \"c\" 'd' </pre><script>alert(1)</script>"


class Page(HTMLParser):
    """Tags, texts and addresses of a page; fails on tags that do not close."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts, self.addresses = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data.strip())


def report(**changes):
    contents = {
        "title": "beam",
        "summary": "A beam.",
        "ending": "Converged.",
        "successful": True,
        "numbers": {"compliance": "216.81"},
        "pictures": (),
        "gradient": "trusted",
        "settings": [("nelx", "60", "elements along x")],
        "command": "python -m problems run beam --set 'a=b c'",
        "files": [("state.vti", "the final state")],
        "provenance": {"jax": "0.10.2"},
    }
    return Report(**{**contents, **changes})


def test_everything_is_on_the_page():
    texts = Page(report_page(report())).texts
    for text in (
        "beam",
        "A beam.",
        "Converged.",
        "compliance",
        "216.81",
        "trusted",
        "nelx",
        "60",
        "elements along x",
    ):
        assert text in texts
    for text in (
        "python -m problems run beam --set 'a=b c'",
        "state.vti",
        "the final state",
        "jax",
        "0.10.2",
    ):
        assert text in texts


@pytest.mark.parametrize("name", ["title", "summary", "ending", "gradient", "command"])
def test_text_is_escaped(name):
    page = Page(report_page(report(**{name: EVIL})))
    assert EVIL in page.texts
    assert "script" not in page.tags


def test_tables_and_captions_are_escaped():
    pictures = [Picture("x.png", b"", EVIL)]
    page = Page(
        report_page(
            report(
                numbers={EVIL: EVIL},
                settings=[(EVIL,) * 3],
                files=[(EVIL,) * 2],
                provenance={EVIL: EVIL},
                pictures=pictures,
            )
        )
    )
    assert page.texts.count(EVIL) == 10
    assert "script" not in page.tags


def test_pictures_are_inside_the_page():
    content = density_png([[0.0, 1.0]])
    page = Page(
        report_page(
            report(pictures=[Picture("a.png", content, "one"), Picture("b.gif", b"GIF89a", "two")])
        )
    )
    first, second = page.addresses
    assert first.startswith("data:image/png;base64,")
    assert base64.b64decode(first.partition(",")[2]) == content
    assert second.startswith("data:image/gif;base64,")
    assert "http" not in report_page(report())


@pytest.mark.parametrize(("successful", "kind"), [(True, "good"), (False, "bad")])
def test_success_and_failure_look_different(successful, kind):
    assert f'class="ending {kind}"' in report_page(report(successful=successful))


def test_what_there_is_not_has_no_heading():
    page = Page(report_page(report(gradient="", numbers={}, files=[])))
    assert not {"Gradient", "Last iteration", "Files"} & set(page.texts)
    assert "Settings" in page.texts
