"""Who may use the API?"""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path

from .frame import page, render


@page("backups.issue_token")
def overview(request: HttpRequest) -> HttpResponse:
    """Who may use the API?"""
    return render(request, "backups/tokens.html", "Tokens")


urlpatterns: list[URLPattern] = [path("tokens/", overview, name="tokens")]
