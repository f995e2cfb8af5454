"""The report page: all charts are there, nothing is fetched, hostile text is escaped, and a real browser displays it."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import re
import shutil
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path

import pytest

from common.errors import UserError
from results import report
from results.rendering.charts import log_ticks, nice_ticks, shortened
from results.rendering.markup import escape, tag
from tests.conftest import DATA
from tests.support.logs import FakeRun
from tests.support.mlperf_round import ROUND
from tests.support.run_folders import FakeMachine, write_run, write_series

HOSTILE = (
    '"><script>fetch("http://evil.invalid/s")</script><img src="http://evil.invalid/i" onerror=alert(1)>\x1b[31m\u202e'
)
VOID = {"meta", "link", "br", "hr"}


class Page(HTMLParser):
    """Parses a page: checks that elements nest, and collects them with their attributes, and the text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name not in VOID:
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        self.text += data

    def all(self, name):
        return [attributes for found, attributes in self.elements if found == name]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    write_series(folder / "gpu", 10, FakeMachine("this-machine", gpus=2))
    write_series(folder / "slow", 3, FakeMachine("slow-machine"), slower=2.5)
    write_series(folder / "hostile", 2, FakeMachine(HOSTILE), org=HOSTILE)
    return folder


@pytest.fixture(scope="module")
def written(sources, tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "report.html"
    arguments = [sources, DATA / ROUND, "--html", file, "--baseline", "this-machine", "--title", HOSTILE]
    assert report.main(list(map(str, arguments))) == 0
    return file


def test_the_page_is_complete_and_every_chart_has_a_text_description(written):
    page = Page(written.read_text(encoding="utf-8"))
    titles = {attributes.get("aria-labelledby", "").split()[0] for attributes in page.all("svg")}
    for chart in (
        "g1-time",
        "g1-wer-time",
        "g1-wer-epoch",
        "g1-parts",
        "g1-t0-0",
        "g1-t0-1",
        "g1-t0-2",
        "g2-time",
        "g2-wer-time",
    ):
        assert f"{chart}-title" in titles
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for svg in page.all("svg"):
        assert svg["role"] == "img" and set(svg["aria-labelledby"].split()) <= set(ids)
    assert "not verified by MLCommons" in page.text
    for text in (
        "GPU utilisation",
        "GPU power",
        "GPU memory",
        "Host CPU utilisation",
        "Where the time went",
        "Systems",
        "Parameters",
    ):
        assert text in page.text
    assert "optimizer.learning_rate" in page.text and "NVIDIA / dgxa100_n16_ngc21.09_pytorch" in page.text
    for link in page.all("a"):
        assert link["href"].startswith("#") and link["href"][1:] in ids
    # Tables that may be wider than a phone can be focused and scrolled by keyboard.
    regions = [attributes for attributes in page.all("div") if attributes.get("class") == "scroll"]
    assert regions and all(region["tabindex"] == "0" and region["aria-label"] for region in regions)


def test_the_page_needs_no_network_and_no_script(written):
    text = written.read_text(encoding="utf-8")
    page = Page(text)
    assert not page.all("script") and not page.all("img") and not page.all("iframe")
    for name, attributes in page.elements:
        for key, value in attributes.items():
            assert not key.startswith("on") and key != "style", (name, key)
            if key in ("src", "href", "action", "xlink:href"):
                assert value == "data:," or value.startswith("#"), (name, key, value)
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    assert "url(" not in text and "@import" not in text and "\x1b" not in text and "\u202e" not in text


def browser():
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    return found or pytest.skip("no Chromium on this machine")


class Proxy(socketserver.ThreadingTCPServer):
    """A proxy in place of the network: records every request of the browser and answers none."""

    allow_reuse_address = daemon_threads = True

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            self.server.requests.append(self.rfile.readline().decode("latin-1"))

    def __init__(self):
        super().__init__(("127.0.0.1", 0), self.Handler)
        self.requests = []


def browse(file, profile, *more):
    """Open a page in headless Chromium; return the document, the console's lines and the requests."""
    with Proxy() as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        command = [browser(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
        command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        command += [f"--user-data-dir={profile}", f"--proxy-server=127.0.0.1:{proxy.server_address[1]}"]
        command += ["--proxy-bypass-list=<-loopback>", "--enable-logging=stderr", "--v=0", "--virtual-time-budget=2000"]
        done = subprocess.run(
            [*command, *more, "--dump-dom", file.as_uri()], capture_output=True, timeout=200, check=False
        )
        proxy.shutdown()
    console = [line for line in done.stderr.decode(errors="replace").splitlines() if "CONSOLE" in line]
    return done.stdout.decode(), console, proxy.requests


class Browser:
    """Opens pages in windows of any width, also narrower than 500 pixels, which a real window cannot be.

    It is controlled through a pipe, by the DevTools protocol.
    """

    def __init__(self, commands, answers) -> None:
        self._commands, self._answers, self._number, self._session = commands, answers, 0, None
        self._received = b""
        target = self._do("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._do("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def _do(self, method, **params):
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        message |= {"sessionId": self._session} if self._session else {}
        self._commands.write(json.dumps(message).encode() + b"\0")
        return self._wait(lambda answer: answer.get("id") == self._number)["result"]

    def _wait(self, wanted):
        while True:
            while b"\0" not in self._received:
                piece = self._answers.read(1 << 16)
                assert piece, "the browser has ended"
                self._received += piece
            message, self._received = self._received.split(b"\0", 1)
            answer = json.loads(message)
            if wanted(answer):
                return answer

    def open(self, page: Path, width: int) -> None:
        """Open a page in a window `width` CSS pixels wide."""
        self._do("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        self._do("Page.navigate", url=page.as_uri())
        ready = f"document.readyState == 'complete' && location.href == {json.dumps(page.as_uri())}"
        while not self.value(ready):
            pass

    def value(self, expression: str):
        """The value of a JavaScript expression in the page."""
        answer = self._do("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def printed_pages(self) -> int:
        """Number of sheets of paper on which the page is printed."""
        pdf = base64.b64decode(self._do("Page.printToPDF", preferCSSPageSize=True)["data"])
        return len(re.findall(rb"/Type\s*/Page\b", pdf))


@contextmanager
def open_browser(profile: Path) -> Iterator[Browser]:
    """A browser with an empty profile folder, which is ended afterwards."""
    command = [browser(), "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
    reading, commands = os.pipe()
    answers, writing = os.pipe()
    # Chromium reads descriptor 3 and writes to 4; the copies are out of their way.
    inherited = [fcntl.fcntl(each, fcntl.F_DUPFD, 10) for each in (reading, writing)]
    script = f'exec "$@" 3<&{inherited[0]} 4>&{inherited[1]}'
    with open(commands, "wb", buffering=0) as to, open(answers, "rb", buffering=0) as back:
        process = subprocess.Popen(
            ["bash", "-c", script, "bash", *command, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=inherited,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for each in (reading, writing, *inherited):
            os.close(each)
        try:
            yield Browser(to, back)
        finally:
            process.terminate()
            process.wait(60)


@pytest.mark.parametrize(
    "more", [["--window-size=390,800"], ["--window-size=1200,900", "--blink-settings=preferredColorScheme=0"]]
)
def test_a_real_browser_displays_it_without_errors_or_requests(written, tmp_path, more):
    document, console, requests = browse(written, tmp_path / "profile", *more)
    assert console == []
    assert not [line for line in requests if "evil" in line or "report.html" in line], requests
    assert document.count("<svg") == written.read_text(encoding="utf-8").count("<svg") > 10
    assert "<script" not in document


def test_the_browser_test_would_see_a_leak(tmp_path):
    """Checks that the previous test can fail."""
    leaky = tmp_path / "leaky.html"
    leaky.write_text('<img src="http://evil.invalid/i"><script>console.error("leaked"); nonsense()</script>')
    _, console, requests = browse(leaky, tmp_path / "profile")
    assert any("leaked" in line for line in console) and any("evil.invalid" in line for line in requests)


def test_the_same_runs_give_the_same_page(sources, tmp_path, capsys):
    pages = []
    for name in ("a.html", "b.html"):
        report.main([str(sources), "--html", str(tmp_path / name)])
        pages.append((tmp_path / name).read_bytes())
    assert pages[0] == pages[1]


def test_an_input_is_never_overwritten(sources):
    log = next(sources.glob("gpu/*/result.txt"))
    before = log.read_bytes()
    with pytest.raises(UserError, match="one of the inputs"):
        report.main([str(sources), "--html", str(log)])
    assert log.read_bytes() == before


def test_broken_telemetry_omits_only_its_charts(tmp_path, capsys):
    for name, content in {
        "garbage": b"\x00\xff" * 900,
        "odd": b"time_unix_s,device\n1,gpu0,7,8\nnan,inf\n",
        "empty": b"",
    }.items():
        run = write_run(tmp_path / name, FakeRun(seed=hash(name) % 1000), FakeMachine(name, gpus=1))
        (run / "telemetry.csv").write_bytes(content)
    assert report.main([str(tmp_path), "--html", str(tmp_path / "r.html")]) == 0
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "Time to target" in page.text and "GPU power" not in page.text


def test_telemetry_is_drawn_for_six_systems_and_the_omission_is_stated(tmp_path):
    for number in range(7):
        write_run(tmp_path / f"run-{number}", FakeRun(seed=number, word_edits=(250,)), FakeMachine(f"box-{number}"))
    assert report.main([str(tmp_path), "--html", str(tmp_path / "r.html")]) == 0
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert page.text.count("Hardware over one run") == 6
    assert "Only the first 6 systems with telemetry are drawn." in page.text


def test_everything_but_markup_is_escaped():
    assert tag("p", "<b>", tag("i", "&"), title='"x"') == '<p title="&quot;x&quot;">&lt;b&gt;<i>&amp;</i></p>'
    assert tag("a", aria_label="x", class_="y") == '<a aria-label="x" class="y"></a>'
    assert re.fullmatch(r"[\x20-\x7e]+", escape("a\nb\x00\u202e"))


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 112.5), (0, 0.003), (0, 7e9), (3, 3)])
def test_ticks_cover_their_range_in_round_steps(low, high):
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low and ticks[-1] >= high * (1 - 1e-9) and len(ticks) <= 8


def test_logarithmic_ticks_are_inside_the_range():
    assert log_ticks(5.2, 1138) == [10, 20, 50, 100, 200, 500, 1000]
    assert log_ticks(1e-6, 1e6) == [10.0**power for power in range(-6, 7)]
    assert shortened("abcdefghij", 5) == "ab…ij"
