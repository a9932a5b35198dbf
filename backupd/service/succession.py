"""Whether the daemon should begin anew as another user: the owner of a database that was not there when it started."""

import os

from backupd.config import Config
from backupd.errors import ConfigError
from backupd.identity import become_owner_of_backups, become_root_again, hand_over_backups, identity_for
from backupd.log import Event, EventLog


class Succession:
    """Asked once a minute; what root made meanwhile goes to the successor first, who could do nothing without it."""

    def __init__(self, config: Config, log: EventLog) -> None:
        self._config, self._log = config, log
        self._told = ""

    def due(self) -> bool:
        """Tell whether all is ready for a beginning as another user; what is in the way is logged once."""
        try:
            identity = identity_for(self._config, os.environ)
            if identity is None:
                return False
            become_root_again()
            hand_over_backups(self._config, identity)
        except ConfigError as error:
            if error.message != self._told:
                self._log.error(Event.RUN_BROKEN, error.message, hint=error.hint)
            self._told = error.message
            become_owner_of_backups(self._config, os.environ)
            return False
        return True
