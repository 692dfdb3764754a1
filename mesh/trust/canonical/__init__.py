"""The canonical form of a message: three digests, from exact to links alone (spec §1–§4)."""

from mesh.trust.canonical.message import Canonical, canonicalise

__all__ = ["Canonical", "canonicalise"]
