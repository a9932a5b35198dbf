"""The SSH agent at SSH_AUTH_SOCK, which is not waited for without end."""

import os
import socket

from paramiko.agent import AgentSSH
from paramiko.ssh_exception import SSHException

from backupd.errors import LoginFailed


class Agent(AgentSSH):
    """A connection to the agent, or to none, which has no keys. Raises LoginFailed for one that does not answer."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__()
        path = os.environ.get("SSH_AUTH_SOCK")
        if not path:
            return
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(timeout_s)
        try:
            connection.connect(path)
            self._connect(connection)  # type: ignore[attr-defined] # paramiko's own Agent does just this, with no timeout
        except (SSHException, OSError) as error:
            connection.close()
            hint = "check SSH_AUTH_SOCK and `ssh-add -l`, or set private_key"
            raise LoginFailed(f"the SSH agent does not answer: {error}", hint) from None

    def close(self) -> None:
        """Close the connection."""
        self._close()  # type: ignore[attr-defined] # as above
