"""HTML in text messages: whether there is any, and the text without it. The door to nh3.

`clean_content` asks. Text without a tag is never touched, so that `a < b`, `<3` and `List<String>` stay as they were
written; what counts as a tag is decided here, before a parser sees the text and escapes all of it.

Source: https://html.spec.whatwg.org/multipage/indices.html, https://html.spec.whatwg.org/multipage/parsing.html
"""

from __future__ import annotations

import html
import re
from typing import Final

import nh3

#: HTML elements of more than one letter, obsolete ones that browsers still know, and the roots of SVG and MathML.
_ELEMENTS: Final = (
    "abbr acronym address applet area article aside audio base basefont bdi bdo bgsound big blink blockquote body "
    "br button canvas caption center cite code col colgroup data datalist dd del details dfn dialog dir div dl dt "
    "em embed fieldset figcaption figure font footer form frame frameset h1 h2 h3 h4 h5 h6 head header hgroup hr "
    "html iframe image img input ins isindex kbd keygen label legend li link listing main map mark marquee math "
    "menu menuitem meta meter multicol nav nobr noembed noframes noscript object ol optgroup option output param "
    "picture plaintext pre progress rb rp rt rtc ruby samp script search section select slot small source spacer "
    "span strike strong style sub summary sup svg table tbody td template textarea tfoot th thead time title tr "
    "track tt ul var video wbr xmp"
)
#: Where an element's tag begins, or a comment or a document type, which only HTML has.
_TAG: Final = re.compile(rf"</?(?:{_ELEMENTS.replace(' ', '|')})(?=[\s/>])|<!--|<!doctype\b", re.IGNORECASE)
#: Elements of one letter are named like variables: theirs are tags that are written like some.
_SHORT_TAG: Final = re.compile(r"</?[abipqsu](?:(?:\s+[a-z][\w-]*)*\s*/?>|[\s/][^<>]*=)", re.IGNORECASE)
#: An element that only browsers of tomorrow know is harmless text, unless it is given something to run.
_ANY_TAG: Final = re.compile(r"<[a-z]", re.IGNORECASE)
_HANDLER: Final = re.compile(r"[\s/\"']on\w+\s*=", re.IGNORECASE)
#: Text of a parsed document may be a document again: each round takes a layer away, and nobody needs more of them.
_ROUNDS: Final = 4


def has_html(text: str) -> bool:
    """Whether there is a tag in it that a browser would act on, closed or not. Takes time in proportion to the text."""
    if "<" not in text:
        return False
    if _SHORT_TAG.search(text):
        return True
    tag = _TAG.search(text)
    if tag is not None and (text.find(">", tag.end()) >= 0 or text.find("=", tag.end()) >= 0):
        return True
    start = _ANY_TAG.search(text)
    return start is not None and _HANDLER.search(text, start.end()) is not None


def strip_html(text: str) -> str | None:
    """The text without its tags, and without what scripts and styles hold; `None` if it hides tags in tags without end.

    Entities stay as they were written: they are text here, and would make tags of what is none.
    """
    for _ in range(_ROUNDS):
        cleaned = nh3.clean(text.replace("&", "&amp;"), tags=set(), clean_content_tags={"script", "style"})
        text = html.unescape(cleaned)
        if not has_html(text):
            return text
    return None


def escape_html(text: str) -> str:
    return html.escape(text, quote=False)
