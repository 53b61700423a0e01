"""Whether this process answers at all."""

from __future__ import annotations

from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe


@require_safe
@never_cache
def alive(request: HttpRequest) -> JsonResponse:
    """Answer 200. Touches no database: a restore that holds them is no reason to restart the web server."""
    return JsonResponse({"status": "alive"})
