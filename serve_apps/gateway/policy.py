"""Who may call what: one table of every route, read before anything else is done.

The table is closed: a route that is missing here can't be reached, and a test compares it with
the application's own routes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from mesh.security import scopes
from serve_apps.gateway.answers import JSON, Flavour
from serve_apps.gateway.body import FORM, NDJSON

Credential = Literal["none", "bearer", "bearer or basic"]


@dataclass(frozen=True, slots=True)
class Rule:
    """What one method of one path needs."""

    scope: str | None = None
    """None: any valid credential will do."""
    credential: Credential = "bearer"
    body: str | None = None
    """Media type that is read; None: a body is not read at all."""
    idempotent: bool = False
    """Whether an Idempotency-Key is honoured."""
    workspace: bool = True
    """Whether it reads or writes what is a workspace's: closed to services that name none."""
    head: bool = True
    """Of GET: whether HEAD is answered too (not where the answer is a stream)."""
    stream: bool = False
    """Whether the route reads the body by itself, as it comes: of any length."""
    message: bool = False
    """Whether the body holds a message to verify, and may be as large as those."""
    by_address: Literal["", "read", "work"] = ""
    """Without a credential: by what the caller's address is limited."""


PUBLIC = Rule(credential="none")
BROWSER = Rule(credential="bearer or basic")
LOOK = Rule(credential="none", by_address="read")
"""Who has the name of the thing (which can't be guessed) may see it."""
DRAW = Rule(credential="none", by_address="work")
"""The same, where the answer has to be worked out."""


def _post(scope: str, *, idempotent: bool = True, workspace: bool = True) -> Rule:
    return Rule(scope=scope, body=JSON, idempotent=idempotent, workspace=workspace)


RULES: dict[str, dict[str, Rule]] = {
    "/healthz": {"GET": PUBLIC},
    "/readyz": {"GET": PUBLIC},
    "/metrics": {"GET": Rule(scope=scopes.METRICS_READ, workspace=False)},
    "/openapi.json": {"GET": BROWSER},
    "/docs": {"GET": BROWSER},
    "/docs/{asset}": {"GET": BROWSER},
    "/oauth/token": {"POST": Rule(credential="none", body=FORM)},
    "/.well-known/jwks.json": {"GET": PUBLIC},
    "/v1/models": {"GET": Rule(scope=scopes.MODELS_READ, workspace=False)},
    "/v1/models/{model_id}": {"GET": Rule(scope=scopes.MODELS_READ, workspace=False)},
    "/v1/chat/completions": {"POST": _post(scopes.CHAT_WRITE)},
    "/v1/completions": {"POST": _post(scopes.CHAT_WRITE)},
    # Jobs of the runtime itself train on what no workspace owns.
    "/v1/embeddings": {"POST": _post(scopes.EMBEDDINGS_WRITE, workspace=False)},
    "/v1/mesh/tasks": {"GET": Rule(scope=scopes.TASKS_READ), "POST": _post(scopes.TASKS_WRITE)},
    "/v1/mesh/tasks/{task_id}": {
        "GET": Rule(scope=scopes.TASKS_READ),
        "DELETE": Rule(scope=scopes.TASKS_WRITE),
    },
    "/v1/mesh/tasks/{task_id}/trace": {"GET": Rule(scope=scopes.TASKS_READ)},
    "/v1/mesh/tasks/{task_id}/events": {"GET": Rule(scope=scopes.TASKS_READ, head=False)},
    "/v1/mesh/events": {"GET": Rule(scope=scopes.STREAMS_READ, head=False)},
    "/v1/mesh/rooms/{room}/messages": {"POST": _post(scopes.STREAMS_WRITE, idempotent=False)},
    "/v1/mesh/tasks/{task_id}/approvals": {"GET": Rule(scope=scopes.TASKS_READ)},
    "/v1/mesh/tasks/{task_id}/approvals/{step}": {
        "POST": _post(scopes.TASKS_APPROVE, idempotent=False)
    },
    "/v1/mesh/tasks/{task_id}/replay": {"GET": Rule(scope=scopes.TASKS_READ)},
    "/v1/mesh/kinds": {"GET": Rule(scope=scopes.AGENTS_READ)},
    "/v1/mesh/tools": {"GET": Rule(scope=scopes.TOOLS_CALL)},
    "/v1/mcp": {"POST": Rule(scope=scopes.TOOLS_CALL, body=JSON)},
    "/v1/mesh/agents": {"GET": Rule(scope=scopes.AGENTS_READ, workspace=False)},
    "/v1/mesh/engines": {"GET": Rule(scope=scopes.METRICS_READ, workspace=False)},
    "/v1/mesh/engines/{engine}/faults": {
        "PUT": _post(scopes.ENGINES_ADMIN, idempotent=False, workspace=False)
    },
    "/v1/keys": {"GET": Rule(scope=scopes.KEYS_ADMIN), "POST": _post(scopes.KEYS_ADMIN)},
    "/v1/keys/{key_id}": {"DELETE": Rule(scope=scopes.KEYS_ADMIN)},
    "/v1/memory/items": {"POST": _post(scopes.MEMORY_WRITE)},
    "/v1/memory/items/{item_id}": {
        "GET": Rule(scope=scopes.MEMORY_READ),
        "PATCH": _post(scopes.MEMORY_WRITE, idempotent=False),
        "DELETE": Rule(scope=scopes.MEMORY_FORGET),
    },
    "/v1/memory/search": {"POST": _post(scopes.MEMORY_READ, idempotent=False)},
    "/v1/memory/forget": {"POST": _post(scopes.MEMORY_FORGET, idempotent=False)},
    "/v1/memory/receipts/{receipt_id}": {"GET": Rule(scope=scopes.MEMORY_READ)},
    "/v1/memory/stats": {"GET": Rule(scope=scopes.MEMORY_READ)},
    "/v1/memory/export": {"GET": Rule(scope=scopes.MEMORY_READ, head=False)},
    "/v1/memory/import": {"POST": Rule(scope=scopes.MEMORY_WRITE, body=NDJSON)},
    "/v1/memory/consolidate": {"POST": _post(scopes.MEMORY_WRITE, idempotent=False)},
    "/v1/budgets": {
        "GET": Rule(scope=scopes.BUDGETS_ADMIN),
        "PUT": _post(scopes.BUDGETS_ADMIN, idempotent=False),
    },
    "/v1/budgets/{budget_id}": {"DELETE": Rule(scope=scopes.BUDGETS_ADMIN)},
    "/v1/usage": {"GET": Rule(scope=scopes.MODELS_READ)},
    "/v1/trust/batches": {
        "GET": Rule(scope=scopes.TRUST_READ),
        "POST": Rule(scope=scopes.TRUST_WRITE, body=NDJSON, idempotent=True, stream=True),
    },
    "/v1/trust/batches/{batch}": {"GET": Rule(scope=scopes.TRUST_READ)},
    "/v1/trust/batches/{batch}/messages": {
        "POST": Rule(scope=scopes.TRUST_WRITE, body=NDJSON, stream=True)
    },
    "/v1/trust/batches/{batch}/close": {"POST": Rule(scope=scopes.TRUST_WRITE)},
    "/v1/trust/batches/{batch}/forget": {"POST": _post(scopes.TRUST_REVOKE, idempotent=False)},
    "/v1/trust/batches/{batch}/certificates": {"GET": Rule(scope=scopes.TRUST_READ, head=False)},
    "/v1/trust/batches/{batch}/ids": {"GET": Rule(scope=scopes.TRUST_WRITE)},
    "/v1/trust/batches/{batch}/events": {"GET": Rule(scope=scopes.TRUST_READ, head=False)},
    "/v1/trust/documents/{document}/{version}": {"GET": Rule(scope=scopes.TRUST_READ)},
    "/v1/trust/networks": {"GET": Rule(scope=scopes.TRUST_READ, workspace=False)},
    "/v1/trust/certificates/{certificate}/revoke": {
        "POST": _post(scopes.TRUST_REVOKE, idempotent=False)
    },
    "/v1/trust/certificates/{certificate}/forget": {"POST": Rule(scope=scopes.TRUST_REVOKE)},
    # From here on for anybody. Forms before the bare name, which would match them too.
    "/v1/trust/certificates/{certificate}.json": {"GET": LOOK},
    "/v1/trust/certificates/{certificate}.cbor": {"GET": LOOK},
    "/v1/trust/certificates/{certificate}.pdf": {"GET": DRAW},
    "/v1/trust/certificates/{certificate}": {"GET": LOOK},
    "/v1/trust/receipts/{root}": {"GET": LOOK},
    "/v1/trust/revocations": {"GET": LOOK},
    "/v1/trust/keys": {"GET": LOOK},
    "/v1/trust/verifier.py": {"GET": LOOK},
    "/v1/trust/verify": {
        "POST": Rule(credential="none", by_address="work", body=JSON, message=True)
    },
    "/qr/{certificate}.png": {"GET": DRAW},
    "/qr/{certificate}.svg": {"GET": DRAW},
    "/badge/{certificate}.png": {"GET": LOOK},
    "/badge/{certificate}.svg": {"GET": LOOK},
    "/verify/{certificate}": {"GET": LOOK},
    # Not by address: the page is many small files, and a whole office may open it at once.
    "/verify/assets/{name}": {"GET": PUBLIC},
}

SOCKETS: dict[str, Rule] = {"/v1/mesh/ws": Rule(scope=scopes.STREAMS_READ)}
"""WebSockets, which the table of methods has no place for."""

_OPENAI_PREFIXES = ("/v1/chat", "/v1/completions", "/v1/embeddings", "/v1/models")


def flavour_of(path: str) -> Flavour:
    """Whose clients read the errors there."""
    if path.startswith(_OPENAI_PREFIXES):
        return "openai"
    return "oauth" if path == "/oauth/token" else "plain"


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile("^" + re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(template)) + r"\Z")


_PATTERNS = [(_pattern(template), template) for template in RULES if "{" in template]


def template_of(path: str) -> str | None:
    """The path's template, or None where there is no such route."""
    if path in RULES and "{" not in path:
        return path
    for pattern, template in _PATTERNS:
        if pattern.match(path):
            return template
    return None


def allowed_methods(template: str) -> list[str]:
    """For the Allow header."""
    methods = set(RULES[template]) | {"OPTIONS"}
    get = RULES[template].get("GET")
    if get is not None and get.head:
        methods.add("HEAD")
    return sorted(methods)


def rule_for(template: str, method: str) -> Rule | None:
    """None: the method is not allowed there."""
    rules = RULES[template]
    if method == "HEAD":
        get = rules.get("GET")
        return get if get is not None and get.head else None
    return rules.get(method)


def streams_body(method: str, path: str) -> bool:
    """Whether the route reads its body by itself, as it comes."""
    template = template_of(path)
    rule = None if template is None else rule_for(template, method)
    return rule is not None and rule.stream
