"""Tools: allow-lists, scopes, bounds, records; and a fetch that can't be led into our network."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from graph_support import Echo, QuickClock
from hypothesis import given
from hypothesis import strategies as st

from mesh.agents.ledger import ledger
from mesh.agents.samples import load_brief
from mesh.agents.services import AgentServices
from mesh.agents.tools.box import ToolBox, ToolBoxOptions
from mesh.agents.tools.own import OWN
from mesh.agents.tools.schema import for_model, from_stranger
from mesh.agents.tools.tool import ToolCaller
from mesh.agents.tools.web import WebFetchTool, WebOptions, page_text
from mesh.agents.tools.web_guard import WebRules, check_address, parse
from mesh.core.errors import (
    DeadlineExceeded,
    Fenced,
    Forbidden,
    InvalidInput,
    MailyError,
    Unavailable,
)
from mesh.resilience.deadline import Deadline

WORKSPACE = uuid4()


def caller(seconds: float = 60.0, **more: Any) -> ToolCaller:
    clock = QuickClock()
    return ToolCaller(WORKSPACE, clock, Deadline.after(seconds, clock), **more)


def box(*tools: Any, **more: Any) -> ToolBox:
    return replace(ToolBox.of(tools), **more)


async def test_a_call_is_checked_bounded_and_noted() -> None:
    echo = Echo()
    tools = box(echo, options=ToolBoxOptions(max_result_bytes=100))
    with ledger() as notes:
        good = await tools.call("test.echo", {"text": "hi"}, caller(step="s"))
        long = await tools.call("test.echo", {"text": "é" * 100}, caller())
        bad = await tools.call("test.echo", {"text": 3}, caller())
        more = await tools.call("test.echo", {"text": "x", "other": 1}, caller())
        none = await tools.call("test.none", {}, caller())
    assert (good.ok, good.content, good.truncated) == (True, "hi", False)
    assert (long.truncated, long.content) == (True, "é" * 50)
    assert [(r.ok, (r.error or {})["code"]) for r in (bad, more)] == [(False, "invalid_input")] * 2
    assert (none.ok, (none.error or {})["code"]) == (False, "forbidden")
    assert len(echo.calls) == 2
    assert [(r.ref, r.outcome) for r in notes.reads] == [
        ("test.echo", "ok"),
        ("test.echo", "ok"),
        ("test.echo", "failed"),
        ("test.echo", "failed"),
        ("test.none", "refused"),
    ]
    assert notes.reads[0].label == "s"
    assert tools.statistics() == {
        "tools": 1,
        "calls": 5,
        "refused": 1,
        "failed": 2,
        "truncated": 1,
    }


async def test_lists_only_ever_narrow() -> None:
    tools = box(Echo("a.one"), Echo("a.two"), Echo("a.three"))
    fewer = tools.narrow(["a.one", "a.two", "a.nine"])
    assert fewer.names() == ("a.one", "a.two")
    assert fewer.narrow(["a.two", "a.three"]).names() == ("a.two",)
    assert fewer.narrow(None).names() == fewer.names()
    assert fewer.narrow([]).names() == ()
    result = await fewer.call("a.three", {"text": "x"}, caller())
    assert (result.error or {})["code"] == "forbidden"


async def test_a_workspace_may_have_a_list_of_its_own() -> None:
    echo = Echo()
    tools = box(echo, Echo("a.two"), workspaces={WORKSPACE: frozenset({"a.two"})})
    assert tools.names(WORKSPACE) == ("a.two",)
    assert tools.names(UUID(int=1)) == ("a.two", "test.echo")
    assert not (await tools.call("test.echo", {"text": "x"}, caller())).ok
    assert echo.calls == []


async def test_a_credential_needs_the_tools_scopes() -> None:
    tools = box(Echo(scopes=frozenset({"memory:read"})))
    weak = await tools.call("test.echo", {"text": "x"}, caller(scopes=frozenset()))
    assert (weak.error or {})["code"] == "forbidden"
    strong = caller(scopes=frozenset({"memory:read"}))
    assert (await tools.call("test.echo", {"text": "x"}, strong)).ok
    assert (await tools.call("test.echo", {"text": "x"}, caller(scopes=None))).ok


async def test_failures_are_data_save_for_those_that_end_the_worker() -> None:
    away = await box(Echo(error=Unavailable("gone"))).call("test.echo", {"text": "x"}, caller())
    assert away.error == {"code": "unavailable", "message": "gone"}
    slow = await box(Echo(stuck=True)).call("test.echo", {"text": "x"}, caller())
    assert (slow.error or {})["code"] == "deadline_exceeded"
    with pytest.raises(Fenced):
        await box(Echo(error=Fenced())).call("test.echo", {"text": "x"}, caller())
    with pytest.raises(DeadlineExceeded):
        await box(Echo(stuck=True)).call("test.echo", {"text": "x"}, caller(1.0))


async def test_arguments_are_bounded() -> None:
    tools = box(Echo(), options=ToolBoxOptions(max_argument_bytes=50))
    result = await tools.call("test.echo", {"text": "x" * 60}, caller())
    assert (result.error or {})["message"] == "The arguments are too large."


@pytest.mark.parametrize("name", ["", "Big", "a b", "a..b", ".a", "a.", "x" * 65])
def test_names_are_well_formed(name: str) -> None:
    with pytest.raises(ValueError, match="no name of a tool"):
        ToolBox.of([Echo(name)])


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two tools"):
        ToolBox.of([Echo(), Echo()])


async def test_our_own_tools() -> None:
    tools = ToolBox.of(OWN)
    brief = load_brief().model_dump(mode="json")
    bad = await tools.call(
        "email.check", {"text": "Only $5 at http://evil.example!", "brief": brief}, caller()
    )
    assert bad.ok
    assert bad.content["ok"] is False
    away = await tools.call("memory.search", {"query": "x"}, caller())
    assert (away.error or {})["code"] == "unavailable"
    email = {
        "subject": "Hi",
        "subject_candidates": ["Hi"],
        "preheader": "There",
        "blocks": [{"kind": "button", "text": "Go", "url": "javascript:alert(1)"}],
        "strategy": {"objective": "o", "angle": "a", "call_to_action": "c"},
        "review": {"approved": True, "spam_score": 0.0},
        "language": "en",
    }
    script = await tools.call("email.render", {"email": email}, caller())
    assert (script.error or {})["code"] == "invalid_input"
    email["blocks"] = [{"kind": "paragraph", "text": "Hello <b>"}]
    fine = await tools.call("email.render", {"email": email}, caller())
    assert "Hello &lt;b&gt;" in fine.content["html"]


async def test_memory_is_asked_in_the_callers_workspace() -> None:
    class Memory:
        asked: UUID | None = None

        async def recall(self, workspace_id: UUID, query: Any, *, timeout_s: float) -> Any:
            self.asked = workspace_id
            raise Unavailable("seen")

    memory = Memory()
    services = AgentServices(memory=memory)
    await ToolBox.of(OWN).call("memory.search", {"query": "x"}, caller(services=services))
    assert memory.asked == WORKSPACE


# Schemas


def test_strangers_schemas_are_bounded_and_without_patterns() -> None:
    kept = from_stranger(
        {
            "type": "object",
            "$id": "http://evil.example/",
            "properties": {
                "a": {"type": "string", "pattern": "(a+)+$"},
                "pattern": {"type": "string"},
            },
        }
    )
    assert kept["properties"] == {"a": {"type": "string"}, "pattern": {"type": "string"}}
    assert "$id" not in kept
    deep: dict[str, Any] = {"type": "object"}
    for _ in range(40):
        deep = {"type": "object", "properties": {"x": deep}}
    for wrong in (
        {"type": "string"},
        {"type": "object", "properties": {"a": {"$ref": "http://evil.example/s"}}},
        {"type": "object", "description": "x" * 70_000},
        deep,
    ):
        with pytest.raises(ValueError, match="schema"):
            from_stranger(wrong)


def test_models_get_schemas_without_large_bounds() -> None:
    schema = {"properties": {"a": {"maxLength": 8_000, "minLength": 1, "pattern": "^x$"}}}
    assert for_model(schema) == {"properties": {"a": {"minLength": 1}}}


# web.fetch

PUBLIC = "93.184.216.34"
INSIDE = [
    "127.0.0.1",
    "127.8.8.8",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "192.0.0.8",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::1",
    "::",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "fd00:ec2::254",
    "fec0::1",
    "ff02::1",
    "2001:db8::1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::127.0.0.1",
    "64:ff9b::127.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::",
    "2001:0:4136:e378:8000:63bf:80ff:fffe",
    "not an address",
]


@pytest.mark.parametrize("address", INSIDE)
def test_addresses_inside_are_refused(address: str) -> None:
    with pytest.raises(Forbidden):
        check_address(address)


@pytest.mark.parametrize(
    "address", [PUBLIC, "2606:2800:220:1::1", "::ffff:93.184.216.34", "64:ff9b::5db8:d822"]
)
def test_public_addresses_are_taken(address: str) -> None:
    assert check_address(address)


@given(st.ip_addresses(v=4))
def test_an_address_is_judged_alike_however_it_is_written(address: Any) -> None:
    def judged(text: str) -> bool:
        try:
            check_address(text)
        except Forbidden:
            return False
        return True

    number = int(address)
    forms = [
        f"::ffff:{address}",
        f"64:ff9b::{number >> 16:x}:{number & 0xFFFF:x}",
        f"2002:{number >> 16:x}:{number & 0xFFFF:x}::",
    ]
    assert {judged(form) for form in forms} == {judged(str(address))}
    assert judged(str(address)) <= (address.is_global and not address.is_multicast)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://example.com/",
        "https://user:pass@example.com/",
        "https://example.com@127.0.0.1/",
        "https://example.com:22/",
        "https://example.com:8000/",
        "https://localhost/",
        "https://a.localhost/",
        "https://metadata.google.internal/",
        "https://printer.local/",
        "https://[::1]/",
        "https://[::ffff:7f00:1]/",
    ],
)
def test_urls_that_lead_elsewhere_are_refused(url: str) -> None:
    with pytest.raises(Forbidden):
        parse(url, WebRules())


@pytest.mark.parametrize(
    "url",
    [
        "",
        "https://",
        "https:///x",
        "https://exa mple.com/",
        "https://ex\\ample.com/",
        "https://a:b/",
        "https://[::1/",
        "https://example.com/\r\nHost: x",
        "https://-x.example/",
        "https://x_/",
        "https://" + "a" * 64 + ".com/",
    ],
)
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises((InvalidInput, Forbidden)):
        parse(url, WebRules())


def test_hosts_by_list() -> None:
    rules = WebRules(hosts=("example.com", ".example.org"))
    for url in ("https://example.com/", "https://www.example.org/"):
        parse(url, rules)
    for url in ("https://www.example.com/", "https://example.org/", "https://evilexample.com/"):
        with pytest.raises(Forbidden):
            parse(url, rules)


class Net:
    """A web and a resolver of the test's own; notes where connections went."""

    def __init__(self, **names: Sequence[str]) -> None:
        self.names = {name.replace("_", "."): list(found) for name, found in names.items()}
        self.pages: dict[str, httpx.Response] = {}
        self.asked: list[httpx.Request] = []
        self.lookups: list[str] = []

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        self.lookups.append(host)
        if host not in self.names:
            raise OSError(host)
        return self.names[host]

    async def answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        return self.pages[request.headers["host"] + request.url.path]

    def tool(self, **options: Any) -> WebFetchTool:
        return WebFetchTool(WebOptions(**options), self.resolve, httpx.MockTransport(self.answer))

    async def fetch(self, url: str, **options: Any) -> Any:
        return await self.tool(**options).call({"url": url}, caller())


def page(text: str | bytes, media: str = "text/html", status: int = 200, **headers: str) -> Any:
    body = text if isinstance(text, bytes) else text.encode()
    return httpx.Response(
        status, stream=httpx.ByteStream(body), headers={"content-type": media, **headers}
    )


def moved(to: str) -> httpx.Response:
    return httpx.Response(302, headers={"location": to})


async def test_a_page_is_read_from_the_address_that_was_checked() -> None:
    net = Net(example_com=[PUBLIC])
    net.pages["example.com/x"] = page("<p>Hello <b>you</b></p><script>evil()</script>")
    found = await net.fetch("https://example.com/x?q=1#part")
    assert (found["text"], found["url"]) == ("Hello you", "https://example.com/x?q=1")
    request = net.asked[0]
    assert str(request.url) == f"https://{PUBLIC}/x?q=1"
    assert request.headers["host"] == "example.com"
    assert request.extensions["sni_hostname"] == "example.com"
    assert net.lookups == ["example.com"]  # once: a second answer could be another
    assert not {"cookie", "authorization", "proxy-authorization"} & set(request.headers)


async def test_names_that_lead_inside_are_not_connected_to() -> None:
    net = Net(inside_com=["10.0.0.1"], mixed_com=[PUBLIC, "127.0.0.1"], none_com=[])
    net.names["0x7f000001"] = ["127.0.0.1"]
    for url in ("https://inside.com/", "https://mixed.com/", "https://0x7f000001/"):
        with pytest.raises(Forbidden):
            await net.fetch(url)
    for url in ("https://none.com/", "https://unknown.com/"):
        with pytest.raises(Unavailable):
            await net.fetch(url)
    assert net.asked == []


async def test_redirects_are_checked_like_the_first() -> None:
    net = Net(a_com=[PUBLIC], b_com=[PUBLIC], inside_com=["169.254.169.254"])
    net.pages |= {
        "a.com/": moved("https://b.com/next"),
        "b.com/next": moved("/last"),
        "b.com/last": page("there"),
        "a.com/inside": moved("https://inside.com/latest/meta-data"),
        "a.com/plain": moved("http://b.com/last"),
        "a.com/port": moved("https://b.com:8443/"),
        "a.com/file": moved("file:///etc/passwd"),
        "a.com/loop": moved("https://a.com/loop"),
    }
    assert (await net.fetch("https://a.com/"))["url"] == "https://b.com/last"
    for path in ("inside", "plain", "port", "file", "loop"):
        with pytest.raises(Forbidden):
            await net.fetch(f"https://a.com/{path}")
    assert sum(r.url.path == "/loop" for r in net.asked) == 4
    assert all(r.url.host == PUBLIC for r in net.asked)


async def test_only_text_in_plain_and_so_much_of_it() -> None:
    net = Net(a_com=[PUBLIC])
    net.pages |= {
        "a.com/long": page("x" * 5_000, "text/plain"),
        "a.com/json": page('{"a": 1}', "application/json; charset=utf-8"),
        "a.com/latin": page("caf\xe9".encode("latin-1"), "text/plain; charset=iso-8859-1"),
        "a.com/odd": page(b"\xff\x00ok", "text/plain; charset=nonsense"),
        "a.com/image": page(b"\x89PNG", "image/png"),
        "a.com/packed": page(b"\x1f\x8b", "text/plain", **{"content-encoding": "gzip"}),
        "a.com/gone": page("no", status=404),
    }
    long = await net.fetch("https://a.com/long", max_bytes=1_000)
    assert (len(long["text"]), long["cut"]) == (1_000, True)
    assert (await net.fetch("https://a.com/json"))["text"] == '{"a": 1}'
    assert (await net.fetch("https://a.com/latin"))["text"] == "café"
    assert (await net.fetch("https://a.com/odd"))["text"] == "�ok"
    for path, words in (("image", "not text"), ("packed", "packed"), ("gone", "404")):
        with pytest.raises(MailyError, match=words):
            await net.fetch(f"https://a.com/{path}")


async def test_a_host_that_never_answers_is_left() -> None:
    async def stuck(request: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    net = Net(a_com=[PUBLIC])
    tool = WebFetchTool(WebOptions(timeout_s=3.0), net.resolve, httpx.MockTransport(stuck))
    result = await box(tool).call("web.fetch", {"url": "https://a.com/"}, caller())
    assert (result.error or {})["code"] == "deadline_exceeded"


def test_pages_as_text() -> None:
    html = "<head><title>t</title></head><h1>A</h1><p>b &amp; c<br>d</p><style>x{}</style><li>e"
    assert page_text(html) == "A\nb & c\nd\ne"
