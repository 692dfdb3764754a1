"""SHA-256 of the files that we point to by default, computed from the published packages.

A registry's own checksum proves that the download is what the registry has; these prove that it
is what we tested. A folder's sum is over its sorted member paths and contents
(``store.folder_sha256``).
"""

from __future__ import annotations

KNOWN_SHA256: dict[str, str] = {}
