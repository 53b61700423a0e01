"""The session of the request: confirm it before a dangerous operation."""

from typing import Annotated

from pydantic import StringConstraints
from rest_framework.request import Request

from backups.identity import step_up

from .authentication import token_of
from .operation import Operation
from .problems import Refused
from .schemas import RequestModel

_Answer = Annotated[str, StringConstraints(min_length=1, max_length=step_up.LONGEST_ANSWER)]


class Confirmation(RequestModel):
    """The password of the account, or a code of its second factor if it has one."""

    password: _Answer | None = None
    code: _Answer | None = None


@Operation(needs="Needs a session; a token has none.", body=Confirmation, responses={204: None}, problems=(409,))
def confirm_session(request: Request, *, body: Confirmation) -> None:
    """Confirm the session.

    Operations that answered 403 with the code `step_up` are then accepted for ten minutes, unless the site sets another time.
    Wrong answers are throttled as at signing in.
    """
    if token_of(request) is not None:
        raise Refused(409, "no_session", "A token needs no confirmation. Nothing was done.", "Its scopes limit it instead.")
    method = step_up.method_for(request._request)
    answer = body.password if method is step_up.Method.PASSWORD else body.code
    if answer is None:
        raise Refused(403, "step_up", f"Your {method.value} is missing. Nothing was done.", f"Send it as `{method.value}`.")
    problem = step_up.confirm(request._request, answer)
    if problem and getattr(request._request, "axes_locked_out", False):
        raise Refused(429, "too_many_requests", problem)
    if problem:
        raise Refused(403, "step_up", problem, more={"by": method.value})
