"""What the command line tells an operator when something fails: what, and what to do next.

Exit codes (documented in ``maily --help`` and docs):

===  ==========================================================================
  0  done
  1  something is not healthy, or the request was refused
  2  wrong usage or a wrong setting
  3  another `maily up` runs already
  4  a port is taken
  5  not enough disk space
  6  no network: a download failed
  7  a service of ours did not start (PostgreSQL, Valkey, EVM node, Ray, Serve)
  8  nothing runs here: `maily up` first
  9  `maily verify` found no certificate
 10  `maily verify`: the certificate was revoked
130  interrupted
===  ==========================================================================
"""

from __future__ import annotations

from typing import Any

from mesh.core.errors import MailyError

OK = 0
UNHEALTHY = 1
USAGE = 2
ALREADY_RUNNING = 3
PORT_TAKEN = 4
DISK_FULL = 5
NO_NETWORK = 6
START_FAILED = 7
NOT_RUNNING = 8
NO_CERTIFICATE = 9
REVOKED = 10
INTERRUPTED = 130


class Failure(MailyError):
    """The operator must do something. ``fix``: what; ``exit_code``: see the module's table."""

    code = "failure"

    def __init__(self, message: str, fix: str = "", exit_code: int = UNHEALTHY) -> None:
        super().__init__(message, {"fix": fix, "exitCode": exit_code})
        self.fix = fix
        self.exit_code = exit_code

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.message, self.fix, self.exit_code))
