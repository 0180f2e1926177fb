"""What a page says, as Markdown. Runs as a process of its own: `python -m tools.web.page`.

Pages are hostile, and the parsers are not made for that. Measured on one core: an element with 300 kB of attributes
takes 12 s, with 1 MB 296 s, and lxml holds the interpreter's lock for seconds at a time; 300 kB of `<p>a</p>` take 4 s,
1 MB 33 s. So no page is parsed in the server: here CPU and memory have hard limits, and whoever started the process may
kill it.
"""

import codecs
import re
import resource
import sys

import lxml.html  # type: ignore[import-untyped]
import msgspec
import trafilatura
from lxml.etree import LxmlError  # type: ignore[import-untyped]

from tools.web.reader import LONGEST, Body, Page

CPU = 10
"""Seconds of CPU for a page; then the kernel ends the process."""
MEMORY = 1024**3
"""Bytes of address space; 5 MB of HTML take 400 MB at most."""
MOST_ELEMENTS = 20_000
"""Elements of a page whose content is told from what is around it, which takes up to 1 s; of a larger one, all text is
taken."""
LONGEST_TITLE = 200


def read(body: Body, data: bytes) -> Page:
    """The text of a page."""
    # lxml ends a text at NUL, and databases refuse it.
    text = decoded(data, body.charset, declared=body.kind == "html").replace("\0", " ")
    if body.kind == "text":
        return Page(text[:LONGEST])
    # Bytes, because lxml refuses a str that names another encoding.
    encoded = text.encode("utf-8", "replace")
    try:
        tree = _tree(encoded)
    except LxmlError:
        return Page("")  # no element at all
    title = " ".join((tree.findtext(".//title") or "").split())[:LONGEST_TITLE]
    return Page((_content(tree, body.url) or _all_text(_tree(encoded)))[:LONGEST], title)


def decoded(data: bytes, charset: str, *, declared: bool) -> str:
    """Bytes as text: by their byte order mark, by `charset`, by what HTML declares itself, else as UTF-8.

    The order is that of https://encoding.spec.whatwg.org/#decode and
    https://html.spec.whatwg.org/multipage/parsing.html#determining-the-character-encoding.
    """
    for mark, name in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(name, "replace")
    inside = _DECLARATION.search(data, 0, 1024) if declared else None
    return data.decode(_codec(charset) or _codec(inside[1].decode() if inside else "") or "utf-8", "replace")


_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_DECLARATION = re.compile(rb"""<meta[^>]{0,200}?charset\s{0,9}=\s{0,9}["']?([\w.:-]{1,40})""", re.IGNORECASE)
# Python's codecs are more than the web's: `punycode` is quadratic, `unicode_escape` is none of a page.
_ENCODINGS = re.compile(
    r"utf-(8|16(-[bl]e)?)|iso8859-\d+|cp(1250|1251|1252|1253|1254|1255|1256|1257|1258|866|874|949|932|950)"
    r"|koi8-[ru]|gb(k|2312|18030)|big5(hkscs)?|euc_(jp|kr)|shift_jis|iso2022_jp|mac-roman|ascii"
)


def _codec(label: str) -> str | None:
    try:
        name = codecs.lookup(label.strip()).name
    except (LookupError, ValueError):
        return None
    if name in ("ascii", "iso8859-1"):
        return "cp1252"  # as all browsers read them
    return name if _ENCODINGS.fullmatch(name) else None


def _tree(encoded: bytes) -> lxml.html.HtmlElement:
    parser = lxml.html.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True, huge_tree=False)
    return lxml.html.document_fromstring(encoded, parser=parser)


def _content(tree: lxml.html.HtmlElement, url: str) -> str:
    if any(count > MOST_ELEMENTS for count, _ in enumerate(tree.iter())):
        return ""
    return (
        trafilatura.extract(
            tree, url=url, output_format="markdown", include_links=True, include_tables=True, include_comments=True
        )
        or ""
    )


def _all_text(tree: lxml.html.HtmlElement) -> str:
    """The text without markup, a line for each piece."""
    for element in list(tree.iter("script", "style", "noscript", "template", "title")):
        element.drop_tree()
    return "\n".join(line for piece in tree.itertext() if (line := " ".join(piece.split())))


def serve() -> None:
    """Reads pages from standard input until it ends: a line with a `Body`, then its bytes. Answers each by a `Page`."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    while line := sys.stdin.buffer.readline():
        body = msgspec.json.decode(line, type=Body)
        used = resource.getrusage(resource.RUSAGE_SELF)
        resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + CPU, resource.RLIM_INFINITY))
        page = read(body, sys.stdin.buffer.read(body.size))
        sys.stdout.buffer.write(msgspec.json.encode(page) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    serve()
