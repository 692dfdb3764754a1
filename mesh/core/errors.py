"""The error tree. One shape reaches every caller: ``{"code","message","details","traceId"}``.

::

    MailyError                       status  retryable
    ├── InvalidInput                 422     no    a field is wrong; details.field names it
    │   ├── MalformedBody            400     no    not JSON, NUL bytes, nested too deep
    │   ├── BodyTooLarge             413     no
    │   ├── UnsupportedMedia         415     no    the Content-Type is not one that we read
    │   ├── HeadersTooLarge          431     no
    │   └── UnknownModel             404     no
    ├── Unauthenticated              401     no
    ├── Forbidden                    403     no    details.scope names what is missing
    ├── NotFound                     404     no    also: it belongs to another workspace
    ├── Conflict                     409     no
    │   ├── IdempotencyMismatch      422     no    same key, other body
    │   └── Fenced                   409     no    a newer owner holds the lease
    ├── RateLimited                  429     yes   Retry-After
    ├── BudgetExceeded               429     no    details.budget names it; Retry-After if it resets
    ├── Overloaded                   503     yes   Retry-After
    ├── Unavailable                  503     yes   a dependency is down; Retry-After
    ├── DeadlineExceeded             504     yes
    ├── StepFailed                   502     no    a step of a task, for good; details say which
    ├── Cancelled                    499     no
    ├── EngineError                  502     yes   the model engine failed
    └── Internal                     500     no    the message never says more than that

Errors survive pickling (Ray carries them between processes): every argument is passed to the
base class. The leaves say what happened; callers catch by level.
"""

from __future__ import annotations

from typing import Any, ClassVar


class MailyError(Exception):
    """Base of every error that we raise on purpose."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str = "",
        details: dict[str, Any] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, details, retry_after_s)
        self.message = message or (self.__doc__ or self.code).strip().splitlines()[0]
        self.details: dict[str, Any] = details or {}
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return self.message

    def as_body(self, trace_id: str) -> dict[str, Any]:
        """The JSON body that a caller sees. ``trace_id``: 32 hex digits (W3C)."""
        return {
            "code": self.code,
            "message": self.message,
            "details": self.details,
            "traceId": trace_id,
        }


def own_copy(error: BaseException) -> BaseException:
    """For one of many callers who wait for the same work: a traceback must not grow with each.
    What is no Exception (a cancelled worker) becomes ``Unavailable``."""
    if isinstance(error, MailyError):
        return type(error)(error.message, error.details, error.retry_after_s)
    return error if isinstance(error, Exception) else Unavailable(retry_after_s=0.5)


class InvalidInput(MailyError):
    """The request holds a value that is not allowed."""

    code = "invalid_input"
    status = 422


class MalformedBody(InvalidInput):
    """The request body is not what it says it is."""

    code = "malformed_body"
    status = 400


class BodyTooLarge(InvalidInput):
    """The request body is larger than allowed."""

    code = "body_too_large"
    status = 413


class UnsupportedMedia(InvalidInput):
    """The Content-Type of the body is not one that this route reads."""

    code = "unsupported_media_type"
    status = 415


class HeadersTooLarge(InvalidInput):
    """The request headers are larger than allowed."""

    code = "headers_too_large"
    status = 431


class UnknownModel(InvalidInput):
    """No engine serves this model."""

    code = "unknown_model"
    status = 404


class Unauthenticated(MailyError):
    """The credentials are missing, wrong, expired or revoked."""

    code = "unauthenticated"
    status = 401


class Forbidden(MailyError):
    """The credentials do not hold the scope that this needs."""

    code = "forbidden"
    status = 403


class NotFound(MailyError):
    """There is no such thing in this workspace."""

    code = "not_found"
    status = 404


class Gone(NotFound):
    """It was erased for good."""

    code = "gone"
    status = 410


class MethodNotAllowed(MailyError):
    """This path does not know this method."""

    code = "method_not_allowed"
    status = 405


class Conflict(MailyError):
    """The state of the thing does not allow this."""

    code = "conflict"
    status = 409


class IdempotencyMismatch(Conflict):
    """This Idempotency-Key was used with another request."""

    code = "idempotency_mismatch"
    status = 422


class Fenced(Conflict):
    """A newer owner holds the lease: this writer must stop."""

    code = "fenced"


class RateLimited(MailyError):
    """Too many requests."""

    code = "rate_limited"
    status = 429
    retryable = True


class BudgetExceeded(MailyError):
    """A budget leaves no room for this call."""

    code = "budget_exceeded"
    status = 429


class Overloaded(MailyError):
    """The queue is full."""

    code = "overloaded"
    status = 503
    retryable = True


class Unavailable(MailyError):
    """A part that this needs is not answering."""

    code = "unavailable"
    status = 503
    retryable = True


class DeadlineExceeded(MailyError):
    """The deadline passed before the work was done."""

    code = "deadline_exceeded"
    status = 504
    retryable = True


class StepFailed(MailyError):
    """A step of the task failed for good."""

    code = "step_failed"
    status = 502


class Cancelled(MailyError):
    """The work was cancelled."""

    code = "cancelled"
    status = 499


class EngineError(MailyError):
    """The model engine failed."""

    code = "engine_error"
    status = 502
    retryable = True


class Internal(MailyError):
    """Something went wrong on our side."""

    code = "internal"
    status = 500
