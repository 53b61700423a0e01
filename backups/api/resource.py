"""The view behind every address of this interface. Nothing depends on the project's setting ``REST_FRAMEWORK``."""

from collections.abc import Callable
from typing import Any

from django.http import HttpResponseBase
from rest_framework.negotiation import BaseContentNegotiation, DefaultContentNegotiation
from rest_framework.parsers import JSONParser
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView

from . import problems
from .authentication import AdminSession, Bearer
from .openapi import Describer
from .permissions import Permitted
from .throttling import AnonymousRate, CallerRate, ChangesRate


class Resource(APIView):
    """Authenticates, throttles and authorises every request, and returns errors as problems, whatever the settings."""

    http_method_names = ["get", "head", "post", "patch", "delete"]  # noqa: RUF012  # Django's own
    authentication_classes = (Bearer, AdminSession)
    permission_classes = (Permitted,)
    throttle_classes: Any = (AnonymousRate, CallerRate, ChangesRate)
    parser_classes = (JSONParser,)
    renderer_classes = (JSONRenderer,)
    content_negotiation_class = DefaultContentNegotiation
    metadata_class = versioning_class = None
    schema = Describer()
    tag = ""
    """The heading of its operations in the OpenAPI description."""

    def get_exception_handler(self) -> Callable[..., Response]:
        return problems.answer

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Authenticate, throttle, authorise: in this order, so that anonymous requests are throttled too."""
        self.format_kwarg = None
        request.accepted_renderer, request.accepted_media_type = self.perform_content_negotiation(request)
        request.version = request.versioning_scheme = None
        self.perform_authentication(request)
        self.check_throttles(request)
        self.check_permissions(request)

    def get_throttles(self) -> list[BaseThrottle]:
        return [rate() for rate in self.throttle_classes]

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        """Forbids caches to store the response."""
        response = super().finalize_response(request, response, *args, **kwargs)
        response.headers.setdefault("Cache-Control", "private, no-store")
        return response


class OneRepresentation(BaseContentNegotiation):
    """Ignores ``Accept``, for addresses with a single representation."""

    def select_parser(self, request: Request, parsers: Any) -> Any:
        return parsers[0]

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> Any:
        return renderers[0], renderers[0].media_type


def resource(tag: str, **attributes: Any) -> Callable[..., HttpResponseBase]:
    """A view under the heading *tag*; *attributes* are its operations (``get``, ``post`` …) and replace those of `Resource`."""
    methods = {name: staticmethod(attributes[name]) for name in attributes.keys() & set(Resource.http_method_names)}
    view: type[Resource] = type("Resource", (Resource,), {"tag": tag, **attributes, **methods})
    return view.as_view()
