"""The number of channels of a connection: one to a near host, even if busy, and several with high latency."""

import threading
from collections.abc import Iterator

import pytest

from backupd.stores.sftp.connection import CHANNELS, SftpConnection
from support.network_faults import NetworkFaults, running_proxy
from support.replicas import sftp_connection
from support.sshd import Sshd, running_sshd


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A server that grants three channels, not one more."""
    with running_sshd(tmp_path_factory.mktemp("link") / "sshd", lines=("MaxSessions 3",)) as server:
        yield server


def opened_channels(connection: SftpConnection) -> int:
    """Return how many channels there are of all that may be."""
    connection.open_channels(CHANNELS)
    return len(connection.channels(CHANNELS))


def test_busy_host_with_one_fast_response_has_low_latency(sshd: Sshd) -> None:
    def found_near() -> bool:
        with running_proxy(sshd.port) as proxy, sftp_connection(sshd, proxy.port) as connection:
            proxy.faults = NetworkFaults(rate=300)  # some 0.1 s for an answer
            soon = threading.Timer(0.04, lambda: setattr(proxy, "faults", NetworkFaults()))
            soon.start()
            assert connection.block_bytes
            soon.join()
            return (connection.has_low_latency, opened_channels(connection)) == (True, 1)

    assert any(found_near() for _ in range(20)), "also where the tests keep it so busy that it seldom answers soon"


def test_high_latency_opens_as_many_channels_as_server_grants(sshd: Sshd, server: Sshd) -> None:
    for host, granted in ((sshd, CHANNELS), (server, 3)):
        with (
            running_proxy(host.port, NetworkFaults(delay_s=0.01)) as proxy,
            sftp_connection(host, proxy.port) as connection,
        ):
            assert (connection.has_low_latency, opened_channels(connection)) == (False, granted)
            assert all(client.normalize(".") for client in connection.clients)


def test_no_channel_is_requested_after_refusal(server: Sshd) -> None:
    with (
        running_proxy(server.port, NetworkFaults(delay_s=0.01)) as proxy,
        sftp_connection(server, proxy.port) as connection,
    ):
        assert opened_channels(connection) == 3
        connection.open_channels(CHANNELS)
        assert "sftp-channel" not in {thread.name for thread in threading.enumerate()}, "one would wait for an answer"
        assert len(connection.channels(CHANNELS)) == 3
