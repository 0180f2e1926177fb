"""The web tools: what is read and found, and that nothing leads to where it must not."""

import asyncio
import gzip
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.pages import bomb, certificate, page, raw, redirect, secure
from tests.fakes.search import brave, results
from tests.fakes.server import Fake, Stream, Turn, Whole
from tests.live import until
from tools import Session, Tool, Toolbox, ToolError
from tools.folder import NoSuchFile, open_in, write_new
from tools.web.addresses import is_public
from tools.web.connections import Connections
from tools.web.fetch import Fetch
from tools.web.reader import Body, Page, Reader
from tools.web.search import Brave, Provider, Search, SearXNG, Tavily
from tools.web.web import Web

pytestmark = pytest.mark.anyio

HERE = "127.0.0.1"
STORY = """<nav><a href="/home">Home</a></nav><article><h1>Rivers</h1><p>The Glomma is the longest river of Norway; it
flows through the <a href="/valley">valley</a> of Østerdalen for many a mile.</p><p>Its water comes from the lakes
around Røros, and it ends in the sea at Fredrikstad, which is a town.</p></article>
<script>alert("never")</script>"""
STORY_TOLD = """\
# Rivers

The Glomma is the longest river of Norway; it
flows through the [valley]({url}/valley) of Østerdalen for many a mile.

Its water comes from the lakes around Røros, and it ends in the sea at Fredrikstad, which is a town."""


@pytest.fixture
async def site() -> AsyncIterator[Fake]:
    async with Fake() as site:
        yield site


@pytest.fixture(scope="module")
async def reader() -> AsyncIterator[Reader]:
    """One for all tests: its process takes a while to start."""
    reader = Reader()
    yield reader
    await reader.close()


class Names:
    """What names stand for; the last of a name's answers is repeated."""

    def __init__(self, names: dict[str, list[list[str]]]) -> None:
        self.names = names
        self.asked: list[str] = []

    async def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        if host not in self.names:
            raise OSError
        answers = self.names[host]
        return answers.pop(0) if len(answers) > 1 else answers[0]


Read = Callable[..., Awaitable[str]]


@pytest.fixture
async def read(reader: Reader, tmp_path: Path) -> AsyncIterator[Read]:
    """Calls web_fetch: `await read(url, start=…)`. Options of `Fetch`, and `names`, may stand beside."""
    made: list[Connections] = []

    async def read(url: str, start: int = 0, names: Names | None = None, **options: Any) -> str:
        connections = Connections(names) if names else Connections()
        made.append(connections)
        options.setdefault("private_hosts", [HERE])
        fetch = Fetch(connections, reader, **options)
        box = Toolbox([Tool("f", "", {}, lambda _, given: fetch.web_fetch(**given))])
        return (await box.run("f", {"url": url, "start": start}, Session(tmp_path))).text

    yield read
    for connections in made:
        await connections.close()


async def test_a_page_is_read_without_what_is_around_its_content(site: Fake, read: Read) -> None:
    site.script("/", page(STORY, " On\n rivers "))
    assert await read(f"{site.url}/#top") == f"On rivers\n{site.url}/\n\n{STORY_TOLD.format(url=site.url)}"
    asked = site.asked[0].headers
    assert {"Cookie", "Authorization", "Referer"}.isdisjoint(asked) and asked["Host"] == f"{HERE}:{site.port}"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (raw("naïve".encode()), "naïve"),
        (raw("naïve".encode("latin-1"), "text/plain; charset=ISO-8859-1"), "naïve"),
        (raw("“naïve”".encode("cp1252"), "text/plain; charset=latin1"), "“naïve”"),
        (raw(b"\xff\xfe" + "naïve".encode("utf-16-le"), "text/plain; charset=utf-8"), "naïve"),
        (raw("日本".encode("shift_jis"), "text/csv; charset=Shift_JIS"), "日本"),
        (raw(b"a\xffb\0c", "text/markdown; charset=punycode"), "a�b c"),
        (raw(b'{"a": 1}', "application/problem+json"), '{"a": 1}'),
        (raw(b"<a>&lt;</a>", "application/xml"), "<a>&lt;</a>"),
        (raw("<meta charset=koi8-r><p>Река</p>".encode("koi8-r"), "text/html"), "Река"),
        (raw(gzip.compress(b"small"), **{"Content-Encoding": "gzip"}), "small"),
        (page("<p>one<p>two<div>three"), "one\ntwo\nthree"),
    ],
)  # fmt: skip
async def test_text_in_many_encodings(site: Fake, read: Read, given: Whole, told: str) -> None:
    site.script("/", given)
    assert (await read(f"{site.url}/")).split("\n", 2)[2] == told


async def test_a_long_page_is_read_in_parts(site: Fake, read: Read) -> None:
    site.script("/", raw("".join(f"{n:04},".encode().decode() for n in range(200)).encode()))
    first = await read(f"{site.url}/", longest=800)
    head, note, _, text = first.split("\n")
    end = len(text)
    assert (head, note) == (f"{site.url}/", f"[Characters 0 to {end} of 1000. The rest begins at start={end}.]")
    assert len(first) <= 800
    second = (await read(f"{site.url}/", start=end, longest=800)).split("\n")
    assert second[1] == f"[Characters {end} to 1000 of 1000.]"
    assert text + second[3] == "".join(f"{n:04}," for n in range(200))
    assert await read(f"{site.url}/", start=1000) == f"Error: {site.url}/ has 1000 characters of text."


async def test_a_pdf_is_read_by_who_can(site: Fake, read: Read) -> None:
    async def document(file: Path, name: str) -> str:
        return f"{name}: {file.read_bytes().decode()}"

    site.script("/", raw(b"%PDF", "application/pdf"))
    assert await read(f"{site.url}/", read_file=document) == f"{site.url}/\n\npage.pdf: %PDF"
    assert await read(f"{site.url}/") == (
        f"Error: {site.url}/ is of type application/pdf; web pages, text, JSON and XML can be read."
    )


async def test_redirects_are_followed_and_counted(site: Fake, read: Read) -> None:
    site.script("/", redirect("/a/b", 301))
    site.script("/a/b", redirect("c?x=1#y", 308))
    site.script("/a/c", raw(b"there"))
    assert await read(f"{site.url}/") == f"{site.url}/a/c?x=1\n\nthere"
    site.script("/a/c", redirect("/"))
    error = f"Error: More than 5 redirects; the last one was to {site.url}/."
    assert (await read(f"{site.url}/"), len(site.asked)) == (error, 9)


@pytest.mark.parametrize(
    ("response", "error"),
    [
        (Whole(status=404), "answers with status 404."),
        (redirect("http://[:"), "redirects to something that is not a URL."),
        (raw(b"\x89PNG", "image/png"), "is of type image/png; web pages, text, JSON and XML can be read."),
        (raw(b"x", "nonsense"), "is of type application/octet-stream; web pages, text, JSON and XML can be read."),
        (Turn.CUT, "does not answer."),
    ],
)
async def test_what_is_no_page(site: Fake, read: Read, response: Whole | Turn, error: str) -> None:
    site.script("/", response)
    assert await read(f"{site.url}/") == f"Error: {site.url}/ {error}"


async def test_an_answer_that_is_damaged_or_does_not_end(site: Fake, read: Read) -> None:
    site.script("/damaged", raw(b"\x1f\x8bno", **{"Content-Encoding": "gzip"}))
    site.script("/cut", Stream([b"begun", Turn.CUT], "text/plain"))
    site.script("/slow", Stream([b"begun", Turn.HANG], "text/plain"))
    broken = "Error: The answer of {} ended in the middle, or is damaged."
    assert await read(f"{site.url}/damaged") == broken.format(f"{site.url}/damaged")
    assert await read(f"{site.url}/cut") == broken.format(f"{site.url}/cut")
    assert await read(f"{site.url}/slow", timeout=0.2) == (
        f"Error: {site.url}/slow did not answer in full within 0.2 seconds."
    )
    async with asyncio.timeout(5):
        await site.gone.wait()


async def test_a_bomb_is_not_unpacked(site: Fake, read: Read) -> None:
    site.script("/", bomb(50))
    told = (await read(f"{site.url}/")).split("\n")
    assert told[:3] == [
        f"{site.url}/",
        f"[Characters 0 to {len(told[4])} of 1000000. The rest begins at start={len(told[4])}.]",
        "[Of the page only the first 5,000,000 bytes were read.]",
    ]


async def test_cookies_are_not_kept(site: Fake, read: Read) -> None:
    site.script("/", Whole(raw=b"", status=302, headers={"Location": "/next", "Set-Cookie": "a=b"}))
    site.script("/next", raw(b"x"))
    await read(f"{site.url}/")
    assert ["Cookie" in asked.headers for asked in site.asked] == [False, False]


async def test_proxies_of_the_environment_are_ignored(site: Fake, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    site.script("/", raw(b"direct"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    assert await read(f"{site.url}/") == f"{site.url}/\n\ndirect"


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.0.0.2", "localhost", "LOCALHOST", "localhost.", "0.0.0.0", "0", "127.1", "127.0.1"),
        *("2130706433", "0x7f000001", "017700000001", "0177.0.0.1", "0x7f.0.0.1", "0x7f.1", "127.0.0.1."),
        *("[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::127.0.0.1]"),
        *("[2002:7f00:1::]", "[::1%25lo]", "[fe80::1%25eth0]", "①②⑦.⓪.⓪.①", "127。0。0。1", "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ"),
        *("%31%32%37.0.0.1", "127.0.0.1%00.example.org"),
    ],
)
async def test_this_machine_is_not_reached_under_any_name(site: Fake, read: Read, host: str) -> None:
    site.script("/", raw(b"secret"))
    text = await read(f"http://{host}:{site.port}/", private_hosts=())
    assert text.startswith("Error: ") and "secret" not in text
    assert site.asked == []


async def test_a_redirect_does_not_lead_inside(site: Fake, read: Read) -> None:
    async with Fake() as inside:
        inside.script("/", raw(b"secret"))
        for target in (f"http://localhost:{inside.port}/", f"//[::1]:{inside.port}/", "http://169.254.169.254/"):
            site.script("/", redirect(target))
            assert (await read(f"{site.url}/")).endswith("is not on the public internet, and nothing else may be read.")
        site.script("/", redirect("file:///etc/passwd"))
        assert await read(f"{site.url}/") == "Error: 'file:///etc/passwd' is not an http or https URL."
        site.script("/", redirect("http://me:pass@localhost/"))
        assert await read(f"{site.url}/") == "Error: A URL with a user name or a password is not asked for."
        assert inside.asked == []


async def test_an_open_and_a_closed_port_inside_look_alike(site: Fake, read: Read) -> None:
    opened, closed = f"http://localhost:{site.port}/", "http://localhost:1024/"
    told = [(await read(url)).replace(url, "…") for url in (opened, closed)]
    assert told == ["Error: … is not on the public internet, and nothing else may be read."] * 2


async def test_the_address_that_was_checked_is_the_one_connected_to(site: Fake, read: Read) -> None:
    # Nobody but `names` knows this host. Were it looked up a second time, the answer would be another one.
    names = Names({"pages.test": [[HERE], ["203.0.113.1"]]})
    site.script("/", raw(b"here"))
    url = f"http://pages.test:{site.port}/"
    assert await read(url, names=names, private_hosts=["pages.test"]) == f"{url}\n\nhere"
    assert names.asked == ["pages.test"]


async def test_each_redirect_is_looked_up_and_checked_anew(site: Fake, read: Read) -> None:
    names = Names({"wiki.test": [[HERE]], "evil.test": [[HERE]]})
    site.script("/", redirect(f"http://evil.test:{site.port}/inside"))
    url = f"http://WIKI.test:{site.port}/"
    assert await read(url, names=names, private_hosts=[f"Wiki.test:{site.port}"]) == (
        f"Error: http://evil.test:{site.port}/inside is not on the public internet, and nothing else may be read."
    )
    assert (names.asked, len(site.asked)) == (["wiki.test", "evil.test"], 1)


async def test_one_private_address_among_public_ones_is_enough(read: Read) -> None:
    names = Names({"mixed.test": [["93.184.215.14", "10.0.0.1"]]})
    assert await read("http://mixed.test/", names=names) == (
        "Error: http://mixed.test/ is not on the public internet, and nothing else may be read."
    )


async def test_a_private_host_with_a_port_is_open_at_that_port_only(site: Fake, read: Read) -> None:
    assert await read(f"{site.url}/", private_hosts=[f"{HERE}:1"]) == (
        f"Error: {site.url}/ is not on the public internet, and nothing else may be read."
    )


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("ftp://example.org/", "'ftp://example.org/' is not an http or https URL."),
        ("http:///path", "'http:///path' is not an http or https URL."),
        ("http://[::1", "'http://[::1' is not a URL."),
        ("http://example.org:x/", "'http://example.org:x/' is not a URL."),
        ("https://user@example.org/", "A URL with a user name or a password is not asked for."),
        ("http://example.org:25/", "Port 25 is not one of the web."),
        ("example.org:6379", "Port 6379 is not one of the web."),
        ("http://example.org/" + "x" * 2000, "A URL may have 2000 characters."),
        ("unknown.invalid", "There is no host 'unknown.invalid'."),
    ],
)
async def test_what_is_not_asked_for(read: Read, url: str, error: str) -> None:
    assert await read(url, names=Names({})) == f"Error: {error}"


async def test_a_certificate_must_be_valid_for_the_name(
    read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = Names({"good.test": [[HERE]], "other.test": [[HERE]]})
    file = certificate(tmp_path, "good.test")
    async with secure(file) as port:
        good, other = f"https://good.test:{port}/", f"https://other.test:{port}/"
        hosts = ["good.test", "other.test"]
        untrusted = await read(good, names=names, private_hosts=hosts)
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        told = [await read(url, names=names, private_hosts=hosts) for url in (good, other)]
    assert [untrusted, *told] == [
        "Error: The certificate of 'good.test' is not valid for it.",
        f"{good}\n\nsecure",
        "Error: The certificate of 'other.test' is not valid for it.",
    ]


@pytest.mark.parametrize(
    ("address", "public"),
    [
        *((address, True) for address in ("8.8.8.8", "1.1.1.1", "93.184.215.14", "172.32.0.1", "100.128.0.1")),
        *((address, True) for address in ("2606:4700::1111", "2a00:1450::1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8")),
        *((address, False) for address in ("0.0.0.0", "0.1.2.3", "10.1.2.3", "100.64.0.1", "100.100.100.200")),
        *((address, False) for address in ("127.0.0.1", "127.255.255.254", "169.254.169.254", "172.16.0.1")),
        *((address, False) for address in ("172.31.255.255", "192.0.0.192", "192.0.2.1", "192.168.1.1", "198.18.0.1")),
        *((address, False) for address in ("203.0.113.9", "224.0.0.1", "240.0.0.1", "255.255.255.255")),
        *((address, False) for address in ("168.63.129.16", "192.88.99.1", "::", "::1", "::8.8.8.8", "fe80::1")),
        *((address, False) for address in ("fe80::1%eth0", "2606:4700::1111%eth0", "fc00::1", "fd00:ec2::254")),
        *((address, False) for address in ("::ffff:10.0.0.1", "::ffff:0:8.8.8.8", "64:ff9b::10.0.0.1", "64:ff9b:1::1")),
        *((address, False) for address in ("2001::1", "2001:db8::1", "2002:0808:0808::1", "3fff::1", "ff02::1")),
        *((address, False) for address in ("127.1", "0177.0.0.1", "2130706433", "localhost", "")),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public


TANGLED = ("<p " + " ".join(f"a{n}" for n in range(400_000)) + ">").encode()


async def test_a_tangled_page_ends_its_process_and_nothing_else() -> None:
    reader = Reader(patience=3.0)
    slow = asyncio.create_task(reader.read(Body("html", len(TANGLED), "http://x/"), TANGLED))
    assert await reader.read(Body("text", 2, "http://x/"), b"ok") == Page("ok")
    assert not slow.done()
    with pytest.raises(ToolError, match="too large or too tangled"):
        await slow
    assert await reader.read(Body("text", 2, "http://x/"), b"ok") == Page("ok")
    await reader.close()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("<p>a</p>" * 30_000, "a\n" * 29_999 + "a"),
        ("<div>" * 100_000 + "deep", ""),
        ('<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><p>&b;</p>', "\\]>\n&b;"),
        ('<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><p>&a;</p>', "\\]>\n&a;"),
        ("<!-- nothing -->", ""),
        ("", ""),
    ],
)
async def test_pages_made_to_hurt(reader: Reader, data: str, text: str) -> None:
    assert await reader.read(Body("html", len(data), "http://x/"), data.encode()) == Page(text)


async def test_a_reading_that_is_given_up_ends_its_process() -> None:
    reader = Reader()
    others = readers()
    slow = asyncio.create_task(reader.read(Body("html", len(TANGLED), "http://x/"), TANGLED))
    await until(lambda: readers() > others)
    slow.cancel()
    with pytest.raises(asyncio.CancelledError):
        await slow
    assert readers() == others
    assert await reader.read(Body("text", 2, "http://x/"), b"ok") == Page("ok")
    await reader.close()


def readers() -> set[str]:
    """The reading processes that this test process has started and that live."""
    children = Path(f"/proc/self/task/{threading.main_thread().native_id}/children").read_text().split()
    lines = {child: Path(f"/proc/{child}/cmdline").read_bytes() for child in children}
    return {child for child, line in lines.items() if b"tools.web.page" in line}


HITS = [("One", "https://one.example/", "It is  about\none."), ("Two", "http://two.example/?q=2", "")]
FOUND = "1. One\n   https://one.example/\n   It is about one.\n\n2. Two\n   http://two.example/?q=2"


async def searched(provider: Provider | None, **arguments: Any) -> str:
    connections = Connections()
    search = Search(connections, provider, timeout=0.5)
    box = Toolbox([Tool("s", "", {}, lambda _, given: search.web_search(**given))])
    try:
        return (await box.run("s", {"query": "what?", **arguments}, Session(Path()))).text
    finally:
        await connections.close()


async def test_tavily(site: Fake) -> None:
    site.script("/search", Whole(results(*HITS)))
    assert await searched(Tavily("key", site.url), n=7) == FOUND
    asked = site.asked[0]
    assert (asked.body, asked.headers["Authorization"]) == ({"query": "what?", "max_results": 7}, "Bearer key")


async def test_searxng(site: Fake) -> None:
    site.script("/sub/search", Whole(results(*HITS, ("Bad", "javascript:alert(1)", ""), ("Three", "http://3/", ""))))
    assert await searched(SearXNG(f"{site.url}/sub/"), n=2) == FOUND


async def test_brave(site: Fake) -> None:
    marked = [("One", "https://one.example/", "It is <strong>about</strong> one&#x2E;"), HITS[1]]
    site.script("/res/v1/web/search", Whole(brave(*marked)))
    assert await searched(Brave("key", site.url)) == FOUND
    assert site.asked[0].headers["X-Subscription-Token"] == "key"
    site.script("/res/v1/web/search", Whole({"type": "search"}))
    assert await searched(Brave("key", site.url)) == "Nothing was found."


@pytest.mark.parametrize(
    ("response", "error"),
    [
        (Whole({"detail": "bad key hunter2"}, 401), "Tavily refuses this server's API key. Do without a search."),
        (Whole(status=429), "Tavily allows no more searches now. Try later, or do without."),
        (Whole(status=500), "Tavily failed with status 500. Try again, or do without a search."),
        (redirect("http://127.0.0.1:1/"), "Tavily failed with status 302. Try again, or do without a search."),
        (Whole(raw=b"<html>"), "Tavily sent an answer that is not one."),
        (Whole({"results": [{"title": "no url"}]}), "Tavily sent an answer that is not one."),
        (Whole(raw=b"x" * 5_000_000), "Tavily sent too much."),
        (Turn.HANG, "Tavily did not answer within 0.5 seconds."),
        (Turn.CUT, "Tavily does not answer."),
    ],
)
async def test_a_provider_that_fails_tells_no_key(site: Fake, response: Whole | Turn, error: str) -> None:
    site.script("/search", response)
    assert await searched(Tavily("hunter2", site.url)) == f"Error: {error}"


async def test_searxng_without_its_json_format(site: Fake) -> None:
    site.script("/search", Whole(status=403))
    assert await searched(SearXNG(site.url)) == (
        "Error: SearXNG refuses: its JSON format may not be enabled. Do without a search."
    )


async def test_the_tools_as_models_see_them(site: Fake, tmp_path: Path) -> None:
    site.script("/search", Whole(results(*HITS)))
    site.script("/page", raw(b"text"))
    web = Web(SearXNG(site.url), private_hosts=[HERE])
    box = Toolbox([web])
    assert [spec.name for spec in box.specs()] == ["web_search", "web_fetch"]
    assert [spec.parameters and list(spec.parameters["properties"]) for spec in box.specs()] == [
        ["query", "n"],
        ["url", "start"],
    ]
    assert (await box.run("web_search", {"query": "x"}, Session(tmp_path))).text == FOUND
    assert (await box.run("web_fetch", {"url": f"{site.url}/page"}, Session(tmp_path))).text.endswith("\ntext")
    assert (await box.run("web_search", {"query": "x", "n": 21}, Session(tmp_path))).error is not None
    await web.close()


async def test_without_a_provider_the_model_is_told_so(tmp_path: Path) -> None:
    web = Web()
    box = Toolbox([web])
    assert [spec.name for spec in box.specs()] == ["web_fetch"]
    assert (await box.run("web_search", {"query": "x"}, Session(tmp_path))).text == (
        "Error: The tool web_search is not available: no provider is set (WEB_SEARCH_PROVIDER)."
    )
    await web.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder beside a secret, with every kind of way out of it."""
    folder = tmp_path / "work"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.txt").write_text("a")
    (tmp_path / "secret").write_text("secret")
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "out").symlink_to(tmp_path)
    (folder / "hard").hardlink_to(tmp_path / "secret")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
    return folder


@pytest.mark.parametrize("name", ["sub/a.txt", "./sub//a.txt"])
def test_a_file_is_opened_in_its_folder(folder: Path, name: str) -> None:
    with open_in(folder, name) as file:
        assert file.read() == b"a"


@pytest.mark.parametrize(
    "name",
    [
        *("link", "out/secret", "../secret", "sub/../../secret", "/etc/passwd", "hard", "sub", "socket", "none"),
        *("sub/a.txt/x", "", ".", "..", "a\0b", "x" * 5000),
    ],
)
def test_nothing_else_is_opened(folder: Path, name: str) -> None:
    with pytest.raises(NoSuchFile):
        open_in(folder, name)


def test_a_file_with_two_names_is_opened_on_demand(folder: Path) -> None:
    with open_in(folder, "hard", shared=True) as file:
        assert file.read() == b"secret"


def test_a_new_file_takes_no_ones_place(folder: Path, tmp_path: Path) -> None:
    (folder / "dangling.png").symlink_to(tmp_path / "made")
    assert [write_new(folder, name, b"x") for name in ("a.png", "a.png", "dangling.png", "link")] == [
        "a.png",
        "a-2.png",
        "dangling-2.png",
        "link-2",
    ]
    assert not (tmp_path / "made").exists() and (tmp_path / "secret").read_text() == "secret"
