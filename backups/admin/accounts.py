"""Django's own pages of accounts and groups: changes are audited, and the password change limits wrong guesses."""

from collections.abc import Iterable
from typing import Any

from django.contrib import admin
from django.contrib.admin.forms import AdminPasswordChangeForm
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.contrib.auth.views import PasswordChangeView
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.urls import reverse

from backups.identity import audit
from backups.identity.sign_in import actor_of, password_problem

from .step_up import ask


class Audited:
    """Mixin for the admin of accounts and groups: changes take a session that was confirmed lately, and are audited.

    Without the first, a stolen session could make an account that signs in and does the rest. Django's own log is in the
    database that a restore replaces.
    """

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return _question(request) or super().changeform_view(request, *args, **kwargs)  # type: ignore[misc]

    def changelist_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return _question(request) or super().changelist_view(request, *args, **kwargs)  # type: ignore[misc]

    def delete_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return _question(request) or super().delete_view(request, *args, **kwargs)  # type: ignore[misc]

    def user_change_password(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return _question(request) or super().user_change_password(request, *args, **kwargs)  # type: ignore[misc]

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        if change:
            request.audited_before = _rights(type(obj)._default_manager.get(pk=obj.pk))  # type: ignore[attr-defined]
        super().save_model(request, obj, form, change)  # type: ignore[misc]

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        _record(request, "added", obj, after=_rights(obj))
        return super().log_addition(request, obj, message)  # type: ignore[misc]

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        before = getattr(request, "audited_before", None)
        _record(request, "changed", obj, before=before, after={"fields": _fields(message), **_rights(obj)})
        return super().log_change(request, obj, message)  # type: ignore[misc]

    def log_deletions(self, request: HttpRequest, queryset: Iterable[Any]) -> Any:
        for obj in queryset:
            _record(request, "deleted", obj, before=_rights(obj))
        return super().log_deletions(request, queryset)  # type: ignore[misc]


def _question(request: HttpRequest) -> HttpResponse | None:
    """The page that asks who is there. It keeps no form: it may hold a new password."""
    return ask(request, keep=False) if request.method == "POST" else None


def _record(request: HttpRequest, what: str, obj: Any, *, before: Any = None, after: Any = None) -> None:
    kind = "group" if isinstance(obj, Group) else "account"
    audit.record(actor_of(request), f"{kind}.{what}", f"{kind}:{obj}", before=before, after=after)


def _rights(obj: Any) -> dict[str, Any]:
    """The current permissions of an account or a group."""
    flags = {"superuser": "is_superuser", "staff": "is_staff", "active": "is_active"}
    found: dict[str, Any] = {name: getattr(obj, field) for name, field in flags.items() if hasattr(obj, field)}
    if hasattr(obj, "groups"):
        found["groups"] = sorted(obj.groups.values_list("name", flat=True))
    given = getattr(obj, "permissions", None) or getattr(obj, "user_permissions", None)
    if given is not None:
        found["permissions"] = sorted(".".join(pair) for pair in given.values_list("content_type__app_label", "codename"))
    return found


def _fields(message: Any) -> list[str]:
    """The names of the changed fields, from the admin's change message."""
    if not isinstance(message, list):
        return [str(message)]
    return sorted({str(name) for one in message for part in one.values() for name in part.get("fields", ())})


for _model in (get_user_model(), Group):
    if admin.site.is_registered(_model):
        _plain = type(admin.site.get_model_admin(_model))
        admin.site.unregister(_model)
        admin.site.register(_model, type(f"Audited{_plain.__name__}", (Audited, _plain), {}))


class _PasswordForm(AdminPasswordChangeForm):
    """Checks the old password as at sign-in: wrong ones are audited and delay the next attempt."""

    request: HttpRequest

    def clean_old_password(self) -> str:
        given = str(self.cleaned_data["old_password"])
        problem = password_problem(self.request, given)
        if problem:
            raise ValidationError(problem, code="password_incorrect")
        return given


class _Change(PasswordChangeView):
    form_class = _PasswordForm

    def get_form(self, form_class: Any = None) -> Any:
        form = super().get_form(form_class)
        form.request = self.request  # type: ignore[attr-defined]
        return form

    def form_valid(self, form: Any) -> HttpResponse:
        response = super().form_valid(form)
        audit.record(actor_of(self.request), "account.password_changed", f"account:{self.request.user.get_username()}")
        return response


def _change_password(request: HttpRequest) -> HttpResponse:
    context = admin.site.each_context(request)
    return _Change.as_view(success_url=reverse("admin:password_change_done"), extra_context=context)(request)  # type: ignore[return-value]


change_password = admin.site.admin_view(_change_password)
"""Replaces the admin's view: put ``path("admin/password_change/", change_password)`` before its URLs."""
