"""Briefs to try things with."""

from __future__ import annotations

from importlib import resources

from mesh.contracts.email import Brief

DEFAULT = "spring_sale"


def load_brief(name: str = DEFAULT) -> Brief:
    """A brief that comes with the package. Raises FileNotFoundError for an unknown name."""
    text = resources.files(__package__).joinpath(f"{name}.json").read_text(encoding="utf-8")
    return Brief.model_validate_json(text)


def names() -> list[str]:
    return sorted(
        entry.name.removesuffix(".json")
        for entry in resources.files(__package__).iterdir()
        if entry.name.endswith(".json")
    )
