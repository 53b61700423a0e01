"""What every page says at its top while it holds, error pages included: they have no context."""

from typing import Any

from django import template
from django.template import Context

from backups.conf import configuration
from backups.engine.errors import EngineError
from backups.engine.unfinished import unfinished_exchange

register = template.Library()


@register.inclusion_tag("backups/unfinished_exchange.html", takes_context=True)
def unfinished_exchanges(context: Context) -> dict[str, Any]:
    """The interrupted restores in place that left live stores mixed; paths and backups are for staff only."""
    try:
        found = [one for sources in configuration().sets.values() if (one := unfinished_exchange(sources))]
    except (EngineError, OSError):
        found = []  # the page itself must not fail; `manage.py check` reports the problem
    return {"unfinished": found, "staff": getattr(context.get("user"), "is_staff", False)}
