"""The pages: what they show and say, in both languages; what machines ask; what a browser is forbidden."""

import asyncio
import json
import re
from pathlib import Path

import httpx
import pytest
from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po
from jinja2.ext import babel_extract
from sqlalchemy import Engine, insert, update

from banua_collector import registry
from banua_collector.dating import Dated
from banua_collector.metrics import Metrics
from banua_collector.status import Reading, Value
from banua_collector.tables import boots, quarantine
from banua_collector.web import view
from banua_collector.web.app import make_app
from banua_collector.web.words import CATALOGUES, LANGUAGES, Language, chosen
from banua_wire.fields import KINDS, Type
from banua_wire.summary import summarise
from tests.collector.fleet import MINUTE, NOW_MS, add_batch, add_probe, board, clock, path, radio, wifi

_TEMPLATE = CATALOGUES.parent / "templates" / "status.html"


class _Office:
    """The application on a database, with reasons and a clock that a test sets."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.unhealthy: list[str] = []
        self.unready: list[str] = []
        self._app = make_app(
            engine,
            Metrics(engine),
            healthy=lambda: self.unhealthy,
            ready=lambda: self.unready,
            now_ms=lambda: NOW_MS,
        )

    def get(self, where: str, accept: str = "") -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app=self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://collector") as client:
                return await client.get(where, headers={"accept-language": accept})

        return asyncio.run(ask())

    def page(self, query: str = "", accept: str = "") -> str:
        answer = self.get(f"/{query}", accept)
        assert answer.status_code == 200
        return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", answer.text.partition("<body>")[2])).strip()


@pytest.fixture
def office(engine: Engine) -> _Office:
    """One probe in Tabanio, an hour with service behind it."""
    with engine.begin() as conn:
        registry.load_villages(conn)
        registry.add_place(conn, "63.01.01.2002", "tabanio-1", "Balai desa")
        add_probe(conn, "p1", "tabanio-1")
        rows = [
            clock(50, NOW_MS - 2 * MINUTE),
            radio(60),
            path(70, [40_000, None, 52_500]),
            board(80, disk_free_mb=12345),
        ]
        add_batch(conn, "p1", 1, rows, NOW_MS - MINUTE)
    return _Office(engine)


# --- what people see


def test_the_page_is_indonesian_with_its_numbers_and_times(office: _Office) -> None:
    page = office.page()
    for text in (
        "1 daring",
        "per 16:53 WITA",
        "Tabanio Balai desa",
        "Takisung, Kabupaten Tanah Laut alat ukur p1",
        "data terakhir 16:52 WITA (1 menit yang lalu)",
        "Radio · m1 16:51 WITA",
        "RSRP -95,5 dBm",
        "paket hilang 33,3%",
        "waktu tempuh, median 52,5 ms",
        "waktu tempuh, p95 hilang",
        "ruang kosong 12.345 MB",
        "listrik PLN ya",
    ):
        assert text in page


def test_the_page_is_english_when_asked(office: _Office) -> None:
    page = office.page("?lang=en")
    for text in ("1 online", "last data 16:52 WITA (1 minute ago)", "RSRP -95.5 dBm", "free space 12,345 MB"):
        assert text in page
    assert office.page(accept="en-GB,en;q=0.9") == page


@pytest.mark.parametrize(
    ("wanted", "accept", "language"),
    [
        (None, "", "id"),
        (None, "de, fr;q=0.5", "id"),
        (None, "en", "en"),
        (None, "en-US,en;q=0.9,id;q=0.8", "en"),
        (None, "id-ID,id;q=0.9,en;q=0.8", "id"),
        (None, "en;q=0", "id"),
        (None, "en;q=high", "id"),
        ("id", "en", "id"),
        ("en", "id", "en"),
        ("de", "en", "en"),
    ],
)
def test_the_language_is_the_one_asked_for_then_the_browsers_then_indonesian(
    wanted: str | None, accept: str, language: str
) -> None:
    assert chosen(wanted, accept) == language


def test_a_time_of_another_day_has_its_date() -> None:
    language = Language("id")
    day = 24 * 60 * MINUTE
    assert language.moment(NOW_MS, NOW_MS) == "16:53 WITA"
    assert language.moment(NOW_MS - day, NOW_MS) == "8 Okt 2025 16:53 WITA"
    assert language.moment(NOW_MS - 17 * 60 * MINUTE, NOW_MS) == "8 Okt 2025 23:53 WITA"


def test_a_time_that_may_be_off_by_minutes_says_so_and_an_unknown_one_too(office: _Office) -> None:
    language = Language("id")
    reading = Reading("radio", ("m1",), (), Dated(NOW_MS, 12 * MINUTE), simulated=False)
    assert view.uncertainty(reading, language) == "± 12 menit"
    assert view.uncertainty(Reading("radio", (), (), Dated(NOW_MS, 2000), simulated=False), language) == ""
    with office.engine.begin() as conn:
        add_probe(conn, "p2")
        add_batch(conn, "p2", 1, [radio(60)], NOW_MS)
    assert "Radio · m1 waktu belum diketahui" in office.page()


def test_numbers_that_name_something_are_not_written_as_amounts() -> None:
    values = (Value("cell_id", 110_319_922, ""), Value("earfcn", 1825, ""), Value("polls", 1200, "polls"))
    shown = view.lines(Reading("radio", (), values, None, simulated=False), Language("id"), NOW_MS)
    assert [line.text for line in shown] == ["110319922", "1825", "1.200 kali"]


def test_what_was_not_measured_is_not_on_the_page(office: _Office) -> None:
    with office.engine.begin() as conn:
        add_probe(conn, "p2")
    page = office.page()
    assert "p2 belum ditempatkan belum pernah mengirim" in page
    assert "None" not in page


def test_a_scan_that_was_not_made_says_why_on_the_face_and_its_networks_stay_behind(office: _Office) -> None:
    with office.engine.begin() as conn:
        rows = [wifi(90, outcome="not_measured", reason="no interface wlan0"), wifi(80, bssid="02:00:00:00:00:01")]
        add_batch(conn, "p1", 2, rows, NOW_MS)
    face, _, behind = office.page().partition("semua nilai")
    assert "Wi-Fi sekitar · wlan0 16:51 WITA hasil tidak diukur alasan no interface wlan0" in face
    assert "02:00:00:00:00:01" not in face
    assert "Wi-Fi sekitar · wlan0 · 02:00:00:00:00:01" in behind


def test_a_simulated_probe_and_a_simulated_kind_are_marked(office: _Office) -> None:
    assert "SIMULASI" not in office.page()
    with office.engine.begin() as conn:
        add_batch(conn, "p1", 2, [radio(90, simulated=1)], NOW_MS)
    assert "Radio · m1 SIMULASI" in office.page()
    with office.engine.begin() as conn:
        add_probe(conn, "p2", simulated=True)
    assert "p2 belum ditempatkan SIMULASI" in office.page()
    assert "p2 no deployment SIMULATED" in office.page("?lang=en")


def test_what_needs_a_person_is_said_in_words(office: _Office) -> None:
    with office.engine.begin() as conn:
        conn.execute(update(boots).values(standing="held"))
        for number, name in enumerate(["p1", "p1", "nobody"]):
            conn.execute(
                insert(quarantine).values(
                    probe_name=name, topic="t", reason="r", detail="d", hash=b"%d" % number, received_ms=1, message=b""
                )
            )
        add_batch(conn, "p1", 2, [board(90, outbox_waiting=1200)], NOW_MS, boot_id=b"2" * 16)
    page = office.page("?lang=en")
    assert "Two devices seem to use this name" in page
    assert "2 batches in quarantine" in page
    assert "1,200 batches still to be sent" in page
    assert "1 batch from unknown probes held" in page


def test_an_empty_registry_says_what_to_do(engine: Engine) -> None:
    assert "banua-collector probes add NAMA --key KUNCI" in _Office(engine).page()


def test_who_has_fallen_silent_comes_first(office: _Office) -> None:
    with office.engine.begin() as conn:
        add_probe(conn, "a-never")
        add_probe(conn, "z-late")
        add_batch(conn, "z-late", 1, [radio(60)], NOW_MS - 60 * MINUTE)
    page = office.page()
    assert page.index("z-late belum") < page.index("Tabanio") < page.index("a-never")


def test_what_a_probe_says_cannot_become_markup(office: _Office) -> None:
    with office.engine.begin() as conn:
        add_batch(conn, "p1", 2, [radio(90, state="<script>alert(1)</script>")], NOW_MS)
    text = office.get("/").text
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


# --- what machines ask, and what a browser may do


def test_health_and_readiness_name_every_reason_on_a_line(office: _Office) -> None:
    assert office.get("/healthz").status_code == office.get("/readyz").status_code == 200
    office.unready = ["broker: not connected", "influx: refused"]
    answer = office.get("/readyz")
    assert answer.status_code == 503
    assert [json.loads(line) for line in answer.text.splitlines()] == [
        {"reason": "broker: not connected"},
        {"reason": "influx: refused"},
    ]
    assert office.get("/healthz").status_code == 200
    office.unhealthy = ["disk full"]
    assert office.get("/healthz").status_code == 503


def test_metrics_and_status_are_there_for_machines(office: _Office) -> None:
    metrics = office.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=")
    assert 'banua_batches_total{outcome="journalled"} 0.0' in metrics.text
    (probe,) = office.get("/status.json").json()["probes"]
    assert (probe["name"], probe["state"], probe["where"]["place"]["village"]["name"]) == ("p1", "online", "Tabanio")


def test_the_responder_answers_what_no_captive_portal_would(office: _Office) -> None:
    answer = office.get("/responder")
    assert (answer.status_code, answer.content) == (204, b"")


@pytest.mark.parametrize("where", ["/", "/status.json", "/metrics", "/healthz", "/static/status.css", "/nowhere"])
def test_every_answer_forbids_what_the_page_does_not_need(office: _Office, where: str) -> None:
    headers = office.get(where).headers
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


def test_the_page_loads_nothing_from_elsewhere_and_everything_it_names_is_there(office: _Office) -> None:
    text = office.get("/").text
    named = re.findall(r'(?:src|href)="([^"]+)"', text)
    assert named
    for reference in named:
        assert reference.startswith(("/static/", "?lang=")), reference
        assert office.get(reference if reference.startswith("/") else f"/{reference}").status_code == 200
    assert " style=" not in text
    assert " onclick=" not in text


def test_without_scripts_the_page_still_refreshes(office: _Office) -> None:
    assert '<noscript><meta http-equiv="refresh" content="10"></noscript>' in office.get("/").text


# --- the catalogues


def _catalogue(code: str) -> Catalog:
    with (CATALOGUES / code / "LC_MESSAGES" / "banua_collector.po").open("rb") as file:
        return read_po(file, locale=code, abort_invalid=True)


def _wanted() -> set[tuple[str | None, str]]:
    """Every message the page can ask for: the template's own, and the words of the dictionary."""
    with _TEMPLATE.open("rb") as file:
        options = {"trim_blocks": "true", "lstrip_blocks": "true"}
        found = list(babel_extract(file, ("gettext", "ngettext"), (), options))
    wanted: set[tuple[str | None, str]] = {
        (None, message if isinstance(message, str) else str((message or ("",))[0])) for _, _, message, _ in found
    }
    fields = [(kind, field) for kind in KINDS if kind.sink == "influx" for field in kind.fields]
    wanted |= {("kind", kind.name) for kind in KINDS if kind.sink == "influx"}
    wanted |= {
        ("field", field.name)
        for kind, field in fields
        if field.name not in kind.key and field.name != "simulated" and field.type is not Type.ARRAY
    }
    wanted |= {
        ("field", figure) for train in ([1.0, 2.0], [1.0, None, None, None, None]) for figure in summarise(train)
    }
    wanted |= {("field", f"p{percent}_lost") for percent in (50, 80, 95)}
    wanted |= {("unit", field.unit) for _, field in fields if field.unit in {"polls", "batches", "packets"}}
    wanted |= {("state", state) for state in ("online", "late", "never")}
    wanted |= {("value", word) for words in view.WORDS.values() for word in words}
    return wanted | {("value", word) for word in ("yes", "no", "lost")}


@pytest.mark.parametrize("code", LANGUAGES)
def test_every_message_is_translated_and_none_is_left_over(code: str) -> None:
    catalogue = _catalogue(code)
    translated = {
        (message.context, message.id if isinstance(message.id, str) else message.id[0])
        for message in catalogue
        if message.id and message.string and all(message.string) and not message.fuzzy
    }
    assert translated == _wanted()


@pytest.mark.parametrize("code", LANGUAGES)
def test_translations_keep_their_placeholders(code: str) -> None:
    for message in _catalogue(code):
        if message.id:
            ids = [message.id] if isinstance(message.id, str) else message.id
            strings = [message.string] if isinstance(message.string, str) else list(message.string or ())
            for string in strings:
                assert set(re.findall(r"%\(\w+\)s", string)) == set(re.findall(r"%\(\w+\)s", ids[0])), string


def test_the_translated_words_are_the_dictionarys() -> None:
    meanings = {field.name: field.meaning for kind in KINDS for field in kind.fields}
    for name, words in view.WORDS.items():
        assert all(re.search(rf"\b{word}\b", meanings[name]) for word in words), name


def test_every_headline_is_a_field_or_a_figure() -> None:
    for kind, names in view.HEADLINES.items():
        known = {field.name for each in KINDS if each.name == kind for field in each.fields}
        known |= {*summarise([1.0]), "p50_lost", "p80_lost", "p95_lost"}
        assert set(names) <= known


def test_every_kind_with_an_outcome_says_it_on_the_face_and_its_reason() -> None:
    for kind in KINDS:
        assert view.headline(kind.name)[:2] == ("outcome", "reason"), kind.name


def test_the_template_has_no_text_outside_the_catalogues() -> None:
    source = re.sub(r"{% trans.*?{% endtrans %}|{[%{#].*?[%}#]}|<[^>]*>", " ", _TEMPLATE.read_text(), flags=re.DOTALL)
    assert set(re.findall(r"[A-Za-z]{2,}", source)) == {"Sinyal", "Banua"}
    assert Path(_TEMPLATE).name == "status.html"
