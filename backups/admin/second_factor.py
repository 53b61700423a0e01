"""The second factor of the signed-in account: enrolment, recovery codes, the code at sign-in, removal."""

from base64 import b32encode
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import segno
from django.apps import apps
from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.safestring import SafeString, mark_safe
from django.views.decorators.debug import sensitive_post_parameters

from backups.identity import admin_site, second_factor, step_up
from backups.identity.sign_in import actor_of, password_problem

from .frame import View, page, render, return_address, say

# The admin's own pages for these models would show keys and codes to administrators of accounts.
for model in (apps.get_model("otp_totp.TOTPDevice"), apps.get_model("otp_static.StaticDevice")):
    if admin.site.is_registered(model):
        admin.site.unregister(model)


def _own(view: View) -> View:
    """A page about the signed-in account, also for a session without the second factor yet."""
    kept_secret: Callable[[View], View] = sensitive_post_parameters("password", "code")
    return kept_secret(page(methods=("GET", "POST"))(view))


@_own
def overview(request: HttpRequest) -> HttpResponse:
    """Enrol, renew recovery codes, or remove the second factor."""
    user: Any = request.user
    device = second_factor.device_of(user)
    if device is not None and not second_factor.session_is_strong(request):
        return redirect("backups:second_factor_code")
    doing = request.POST.get("do", "")
    if request.method == "POST" and doing == "begin" and device is None:
        second_factor.begin(request)
        return redirect(_with_next(request, "backups:second_factor"))
    if request.method == "POST" and doing == "confirm" and device is None:
        # A stolen session must not lock the owner out
        problem = password_problem(request, request.POST.get("password", ""))
        if problem:
            return _page(request, {"confirm_problem": problem})
        codes = second_factor.confirm(request, request.POST.get("code", ""))
        if codes:
            say(request, "Second factor set up. Store the recovery codes in a safe place.")
            onward = return_address(request, admin_site.address("index"))
            return _page(request, {"codes": codes, "fresh": True, "onward": onward})
        return _page(
            request, {"problem": "That code is wrong. Check the phone's clock, and enter the code that the app shows now."}
        )
    if request.method == "POST" and device is not None and doing in ("renew", "remove"):
        problem = password_problem(request, request.POST.get("password", ""))
        if problem:
            return _page(request, {f"{doing}_problem": problem})
        if doing == "renew":
            say(request, "New recovery codes created. The old ones no longer work.")
            return _page(request, {"codes": second_factor.renew_codes(request)})
        second_factor.remove(user, actor_of(request))
        say(request, "Second factor removed. Signing in requires only your password.", level=messages.WARNING)
        return redirect("backups:second_factor")
    return _page(request, {})


@_own
def code(request: HttpRequest) -> HttpResponse:
    """The second step of signing in."""
    user: Any = request.user
    if second_factor.session_is_strong(request):
        return redirect(return_address(request, admin_site.address("index")))
    if second_factor.device_of(user) is None:
        return redirect(_with_next(request, "backups:second_factor"))
    problem = ""
    if request.method == "POST":
        checked = second_factor.check(request, request.POST.get("code", ""))
        if checked.by:
            step_up.note(request, step_up.Method.SIGN_IN)
            if checked.by == "recovery code":
                text = f"That recovery code is used up. You have {checked.left} left; create new ones before you run out."
                say(request, text, level=messages.WARNING)
            return redirect(return_address(request, admin_site.address("index")))
        problem = "That code is wrong." + (f" Try again in {checked.wait} s." if checked.wait else "")
    context = {"problem": problem, "next": return_address(request, admin_site.address("index")), "tabs": []}
    return render(request, "backups/second_factor_code.html", "Second factor", context, status=403 if problem else 200)


def _page(request: HttpRequest, context: dict[str, Any]) -> HttpResponse:
    user: Any = request.user
    device = second_factor.device_of(user)
    pending = second_factor.pending_of(user) if device is None else None
    strong = second_factor.session_is_strong(request)
    found = {
        "device": device,
        "pending": pending,
        "left": second_factor.codes_left(user) if device is not None else 0,
        "required": second_factor.required(),
        "picture": _picture(pending.config_url) if pending is not None else "",
        "key": _grouped(pending.bin_key) if pending is not None else "",
        "next": return_address(request, admin_site.address("index")),
        **({} if strong else {"tabs": []}),
    }
    status = 403 if any(name.endswith("problem") for name in context) else 200
    return render(request, "backups/second_factor.html", "Second factor", found | context, status=status)


def _picture(address: str) -> SafeString:
    """The address as a QR code: SVG, black on white in every theme, with a quiet zone."""
    code = segno.make(address, error="m", micro=False)
    return mark_safe(  # noqa: S308 (made by segno from its own numbers)
        code.svg_inline(scale=5, border=4, dark="#000", light="#fff", omitsize=True, svgclass="rb-qr", lineclass=None)
    )


def _grouped(key: bytes) -> str:
    text = b32encode(key).decode("ascii")
    return " ".join(text[start : start + 4] for start in range(0, len(text), 4))


def _with_next(request: HttpRequest, name: str) -> str:
    return f"{reverse(name)}?{urlencode({'next': return_address(request, admin_site.address('index'))})}"
