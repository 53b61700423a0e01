"""``/healthz``: whether this process answers."""

from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe


@require_safe
@never_cache
def alive(request: HttpRequest) -> JsonResponse:
    """Answer 200, without using a database: a restore that locks them must not restart the web server."""
    return JsonResponse({"status": "alive"})
