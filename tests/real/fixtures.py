"""Fixtures over the real servers, for every test of the tree."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from banua_lab.ca import Authority
from tests.real.amqtt_broker import Amqtt
from tests.real.influxd import Influxd
from tests.real.mosquitto import Mosquitto
from tests.real.netns import Namespaces
from tests.real.server import Server

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator


@pytest.fixture
def net() -> Iterator[Namespaces]:
    with Namespaces() as made:
        yield made


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that users without privileges can read: pytest's own are root's alone."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def mosquitto(tmp_path: Path, authority: Authority) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "mosquitto", authority) as server:
        yield server


@pytest.fixture
def amqtt_broker(tmp_path: Path, authority: Authority) -> Iterator[Amqtt]:
    with Amqtt(tmp_path / "amqtt", authority) as server:
        yield server


@pytest.fixture(params=[Mosquitto, Amqtt], ids=lambda kind: kind.name)
def broker(request: pytest.FixtureRequest, tmp_path: Path, authority: Authority) -> Iterator[Mosquitto | Amqtt]:
    """Run the test on every broker: the contract needs nothing that one of them lacks."""
    with request.param(tmp_path / "broker", authority) as server:
        yield server


@pytest.fixture(scope="session")
def influxd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Influxd]:
    with Influxd(tmp_path_factory.mktemp("influxd")) as server:
        yield server


@pytest.fixture
def bucket(influxd: Influxd) -> str:
    """Give the test an empty bucket in the running server, started again if the last test killed it."""
    influxd.start()
    return influxd.create_bucket(f"test-{uuid4().hex[:8]}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        report.sections.extend((f"log of {server.name}", server.tail()) for server in Server.started)
    return report
