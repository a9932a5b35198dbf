"""The SSH agent at SSH_AUTH_SOCK, which is not waited for without end."""

import os
import socket

from paramiko.ssh_exception import SSHException

from backupd.errors import LoginFailed
from backupd.stores.sftp.paramiko_internals import ConnectedAgent


class Agent(ConnectedAgent):
    """A connection to the agent, or to none, which has no keys. Raises LoginFailed for one that does not answer."""

    def __init__(self, timeout_s: float) -> None:
        path = os.environ.get("SSH_AUTH_SOCK")
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._connection.settimeout(timeout_s)
            if path:
                self._connection.connect(path)
            super().__init__(self._connection if path else None)
        except (SSHException, OSError) as error:
            self._connection.close()
            hint = "check SSH_AUTH_SOCK and `ssh-add -l`, or set private_key"
            raise LoginFailed(f"the SSH agent does not answer: {error}", hint) from None

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
