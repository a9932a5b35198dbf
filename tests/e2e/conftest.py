"""Fixtures of the end-to-end tests: the image as it is shipped, in a real container engine."""

import fcntl
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.containers import ROOT, ContainerLab, build, no_engine
from support.sftp_host import SftpHost, build_sftp_host, start_sftp_host

_HERE = Path(__file__).parent
_TIMEOUT_S = 600  # the first test waits for the images to be built


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give these tests, and no others, the time that a build may take."""
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(_TIMEOUT_S))


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The ids of the images of backupd and of the sample app, built from this checkout."""
    if reason := no_engine():
        pytest.skip(reason)
    with (tmp_path_factory.getbasetemp().parent / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the second process of the tests then finds all in the engine's cache
        return build(ROOT, str(ROOT / "scripts" / "image"), "backupd:e2e"), build(ROOT / "deploy" / "sample-app")


@pytest.fixture(scope="session")
def image(images: tuple[str, str]) -> str:
    """The id of the image of backupd."""
    return images[0]


@pytest.fixture(scope="session")
def sftp_image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The id of the image of an SFTP host."""
    if reason := no_engine():
        pytest.skip(reason)
    with (tmp_path_factory.getbasetemp().parent / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return build_sftp_host(tmp_path_factory.mktemp("sftp-host"))


@pytest.fixture
def lab(images: tuple[str, str]) -> Iterator[ContainerLab]:
    """Starts containers; what a test started is gone when it ends."""
    with ContainerLab(*images) as lab:
        yield lab


@pytest.fixture(scope="session")
def seed(images: tuple[str, str]) -> Iterator[str]:
    """A volume on which the sample app has run; tests get copies of it."""
    with ContainerLab(*images) as lab:
        name = lab.volume()
        app = lab.app(name)
        app.python(
            "import urllib.request as r\n"
            "for n in range(20): r.urlopen('http://127.0.0.1:8000/tasks', data=b'task %d' % n).read()"
        )
        app.stop()
        yield name


@pytest.fixture
def volume(lab: ContainerLab, seed: str) -> str:
    """A volume with 20 tasks in the sample app's database, owned by its user 1000; the app does not run."""
    return lab.copy(seed)


@pytest.fixture
def network(lab: ContainerLab) -> str:
    return lab.network()


@pytest.fixture
def host(lab: ContainerLab, sftp_image: str, network: str, tmp_path: Path) -> SftpHost:
    return start_sftp_host(lab, sftp_image, network, tmp_path)
