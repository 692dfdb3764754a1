"""What a client may say on a WebSocket, and what is done about it."""

from __future__ import annotations

import asyncio

from pydantic import ValidationError

from mesh.contracts.streams import (
    COMMAND,
    Auth,
    Command,
    Ping,
    Pong,
    Publish,
    Resume,
    Subscribe,
    Unsubscribe,
)
from mesh.core.errors import (
    BodyTooLarge,
    Conflict,
    Forbidden,
    Internal,
    InvalidInput,
    MailyError,
    MalformedBody,
    NotFound,
    Overloaded,
    RateLimited,
    Unauthenticated,
)
from mesh.core.logging import get_logger
from mesh.security import scopes
from mesh.security.principal import Principal
from mesh.streams.filters import Filter
from mesh.streams.resume import Place, read_token
from serve_apps.gateway.answers import from_validation
from serve_apps.gateway.body import parse_json
from serve_apps.gateway.rooms import speak
from serve_apps.gateway.topics import is_over, room_of, start_of
from serve_apps.gateway.ws.connection import Connection
from serve_apps.gateway.ws.limits import Allowance
from serve_apps.gateway.ws.messages import Close, say, say_error

WRONG_IN_A_ROW = 20
"""Messages that are refused before the client is."""
FASTER_THAN_ALLOWED = 20
"""Messages beyond the rate that are refused before the client is."""

_log = get_logger("gateway.ws")


async def serve_commands(connection: Connection) -> None:
    """Handle messages one by one until the client leaves or is told to."""
    gateway = connection.parts.gateway
    settings = gateway.settings.streams
    loop = asyncio.get_running_loop()
    burst = settings.socket_messages_per_s + settings.socket_subscriptions
    allowance = Allowance(settings.socket_messages_per_s, burst, loop.time())
    wrong = fast = 0
    while (text := await connection.receive()) is not None:
        if len(text) > settings.socket_message_bytes or (
            not text.isascii() and len(text.encode()) > settings.socket_message_bytes
        ):
            limit = settings.socket_message_bytes
            error: MailyError = BodyTooLarge(f"At most {limit} bytes", {"limit": limit})
            connection.put(say_error(error, connection.trace_id))
            connection.close(Close.TOO_LARGE, error.message)
            continue
        wait_s = allowance.take(loop.time())
        if wait_s > 0:
            fast += 1
            error = RateLimited("Messages come too fast", retry_after_s=round(wait_s, 3))
            connection.put(say_error(error, connection.trace_id))
            if fast >= FASTER_THAN_ALLOWED:
                connection.close(Close.TOO_MANY, error.message)
            await connection.room()
            continue
        fast = 0
        wrong = 0 if await handle(connection, text) else wrong + 1
        if wrong >= WRONG_IN_A_ROW:
            connection.close(Close.POLICY, "Message after message was wrong")
        await connection.room()


async def handle(connection: Connection, text: str) -> bool:
    """Do what one message asks for; False where it was refused (and the client told why)."""
    id: str | None = None
    try:
        data = parse_json(text.encode(), connection.parts.gateway.settings.gateway.max_json_depth)
        if not isinstance(data, dict):
            raise MalformedBody("A message is a JSON object", {"field": "body"})
        said = data.get("id")
        id = said if isinstance(said, str) and len(said) <= 64 else None
        try:
            command = COMMAND.validate_python(data)
        except ValidationError as error:
            raise from_validation(error, data) from None
        await _do(connection, command)
    except MailyError as error:
        connection.put(say_error(error, connection.trace_id, id))
        if isinstance(error, Unauthenticated) and connection.principal is None:
            connection.close(Close.UNAUTHENTICATED, error.message)
        return False
    except Exception:
        _log.exception("socket command failed", trace_id=connection.trace_id)
        connection.put(say_error(Internal(), connection.trace_id, id))
        return False
    return True


async def _do(connection: Connection, command: Command) -> None:
    if isinstance(command, Auth):
        await _auth(connection, command)
        return
    if isinstance(command, Pong):
        return  # that it came is what counts
    if isinstance(command, Ping):
        connection.put(say("pong", id=command.id))
        return
    principal = connection.principal
    if principal is None:
        raise Unauthenticated('The first message is {"type":"auth","token":…}')
    if isinstance(command, Subscribe):
        await _subscribe(connection, principal, command)
    elif isinstance(command, Unsubscribe):
        if not connection.unsubscribe(command.id):
            raise NotFound("There is no such subscription", {"id": command.id})
        connection.put(say("unsubscribed", id=command.id))
    elif isinstance(command, Resume):
        await _resume(connection, principal, command)
    else:
        await _publish(connection, principal, command)


async def _auth(connection: Connection, command: Auth) -> None:
    """First credential, or a fresh one: of the same workspace, and wide enough for what runs."""
    header = f"Bearer {command.token}".encode("ascii", "replace")
    principal = await connection.parts.authenticator.authenticate(
        header, "bearer", connection.address
    )
    principal.require(scopes.STREAMS_READ)
    principal.require_workspace()
    former = connection.principal
    if former is not None and former.workspace_id != principal.workspace_id:
        raise Forbidden("The credential is another workspace's; open another socket for that")
    connection.admit(principal, header)
    if scopes.TASKS_READ not in principal.scopes:
        for id, topic in list(connection.topics.items()):
            if topic.kind in ("task", "workspace"):
                connection.unsubscribe(id)
                error = Forbidden("This needs the scope tasks:read.", {"scope": "tasks:read"})
                connection.put(say_error(error, connection.trace_id, id))
    connection.put(say("authenticated", expires_at=principal.expires_at))


async def _subscribe(connection: Connection, principal: Principal, command: Subscribe) -> None:
    chosen = Filter.of(command.filter.types, command.filter.steps)
    await _open(connection, principal, command.id, command.topic, command.after, chosen)


async def _open(
    connection: Connection,
    principal: Principal,
    id: str,
    name: str,
    after: str | None,
    chosen: Filter,
) -> None:
    limit = connection.parts.gateway.settings.streams.socket_subscriptions
    if len(connection.mux) >= limit:
        raise Overloaded(f"At most {limit} subscriptions on one socket", {"limit": limit})
    if connection.mux.get(id) is not None:
        raise Conflict("This id is in use", {"id": id})
    topic = await connection.parts.topics.open(name, principal)
    start = await start_of(connection.parts.gateway.streams, topic, after)
    # Said first: the events of the subscription come after it.
    connection.put(say("subscribed", id=id, topic=name, cursor=str(start)))
    if await is_over(connection.parts.gateway.streams, topic, start):
        connection.put(say("ended", id=id, cursor=str(start)))
        return
    connection.subscribed(topic, connection.mux.add(id, name, topic.stream, start, chosen))


async def _resume(connection: Connection, principal: Principal, command: Resume) -> None:
    limit = connection.parts.gateway.settings.streams.socket_subscriptions
    for place in read_token(command.token, limit):
        await _again(connection, principal, place)
    connection.put(say("resumed", subscriptions=len(connection.mux)))


async def _again(connection: Connection, principal: Principal, place: Place) -> None:
    """One subscription of a token; what it may no longer hear is said and does not stop others."""
    try:
        await _open(connection, principal, place.id, place.topic, str(place.after), place.filter)
    except (InvalidInput, Forbidden, NotFound, Conflict) as error:
        connection.put(say_error(error, connection.trace_id, place.id))


async def _publish(connection: Connection, principal: Principal, command: Publish) -> None:
    gateway = connection.parts.gateway
    decision = await gateway.limiter.hit(principal.key_id)
    if not decision.allowed:
        raise RateLimited(
            f"More than {decision.limit} requests in a minute",
            retry_after_s=max(1.0, decision.reset_s),
        )
    room = room_of(command.topic)
    event = await speak(gateway, principal, room, command.data, command.key)
    connection.put(say("published", id=command.id, topic=command.topic, cursor=str(event.cursor)))
