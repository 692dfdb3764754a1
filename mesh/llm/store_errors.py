"""What goes wrong while a file is fetched. Each says what to do."""

from __future__ import annotations

from mesh.core.errors import MailyError, NotFound, Unavailable


class StoreError(Unavailable):
    """A file could not be fetched."""


class NoNetwork(StoreError):
    """The registry could not be reached; a broken download goes on where it stopped."""


class ChecksumMismatch(StoreError):
    """The file is not the one that was expected; it was thrown away."""

    retryable = False


class DiskFull(StoreError):
    """There is not enough room for the file."""

    retryable = False


class SourceNotFound(NotFound):
    """The registry does not have this package, version or file."""


class NotFetched(StoreError):
    """The file is not in the store."""

    def __init__(self, message: str = "", *args: object) -> None:
        MailyError.__init__(self, message or "the file is not in the store", None, 5.0)
