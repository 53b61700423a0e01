"""Dangerous views ask for the password, or a code of the second factor, and then go on with what was requested."""

import functools
from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.http import urlencode
from django.views.decorators.debug import sensitive_post_parameters

from backups.identity import admin_site, four_eyes, step_up
from backups.identity.four_eyes import Subject
from backups.identity.step_up import Condition

from . import second_person
from .frame import View, page, render, return_address, say

FIELD, CSRF = "step_up_answer", "csrfmiddlewaretoken"


def posted(request: HttpRequest, *_: Any, **__: Any) -> bool:
    """A `Condition`: every POST."""
    return request.method == "POST"


def saved(request: HttpRequest, *_: Any, **__: Any) -> bool:
    """A `Condition`: a POST that saves. Others only show the form or a preview."""
    return request.method == "POST" and request.POST.get("do") == "save"


def dangerous(when: Condition = posted, *, second: Subject | None = None) -> Callable[[View], View]:
    """A decorator below `page`: the view runs for a session that was confirmed lately; *when* says for which requests.

    With *second*, it then takes the approval of a second person where the project requires that (`identity.four_eyes`).
    """

    def decorate(view: View) -> View:
        @functools.wraps(view)
        def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            question: HttpResponseBase | None = None
            if when(request, *args, **kwargs):
                question = ask(request)
                if question is None and second is not None and four_eyes.is_required():
                    question = second_person.settle(request, second, kwargs, left=(CSRF, FIELD))
            return view(request, *args, **kwargs) if question is None else question

        guarded.dangerous, guarded.second = when, second  # type: ignore[attr-defined]
        secret: Callable[[View], View] = sensitive_post_parameters(FIELD)
        return secret(guarded)

    return decorate


def ask(request: HttpRequest, *, keep: bool = True) -> HttpResponse | None:
    """The page that asks who is there, or None for a session that was confirmed lately.

    A form is kept in that page and sent again with the answer, unless *keep* is False. After a GET, `confirm` redirects to its
    address.
    """
    if step_up.admit(request):
        return None
    problem = ""
    if request.method == "POST" and FIELD in request.POST:
        problem = step_up.confirm(request, request.POST[FIELD])
        if not problem and step_up.admit(request):
            return None
    sent = request.method == "POST"
    if not sent or request.FILES or not keep:
        if sent:
            say(request, "Nothing was done. Confirm that it is you, then fill in the form again.", level=messages.WARNING)
        return redirect(f"{reverse('backups:confirm')}?{urlencode({'next': request.get_full_path()})}")
    kept = second_person.fields(request, (CSRF, FIELD))
    return _page(request, request.get_full_path(), kept, problem, status=403)


@sensitive_post_parameters(FIELD)
@page(methods=("GET", "POST"))
def confirm(request: HttpRequest) -> HttpResponse:
    """Confirm the session, and go on to the address in ``next``, such as a download."""
    onward, problem = return_address(request, admin_site.address("index")), ""
    if request.method == "POST":
        problem = step_up.confirm(request, request.POST.get(FIELD, ""))
        if not problem:
            return redirect(onward)
    return _page(request, request.path, [("next", onward)], problem, status=403 if problem else 200)


def _page(request: HttpRequest, action: str, kept: list[tuple[str, str]], problem: str, *, status: int) -> HttpResponse:
    context = {
        "action": action,
        "kept": kept,
        "problem": problem,
        "field": FIELD,
        "by_code": step_up.method_for(request) is step_up.Method.CODE,
    }
    return render(request, "backups/step_up.html", "Confirm that it is you", context, status=status)
