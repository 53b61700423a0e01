"""What every page says at its top while it holds, error pages included: they have no context."""

from typing import Any

from django import template
from django.template import Context

from backups.conf import called, configuration
from backups.engine.errors import EngineError
from backups.engine.unfinished import unfinished_exchange

register = template.Library()

_SHOWN = "backups: unfinished exchanges are shown"


@register.inclusion_tag("backups/unfinished_exchange.html", takes_context=True)
def unfinished_exchanges(context: Context) -> dict[str, Any]:
    """The interrupted restores in place that left live stores mixed; paths and backups are for staff only."""
    if _SHOWN in context.render_context:
        return {}  # by a template of the project that this page extends, or by the page
    context.render_context[_SHOWN] = True
    try:
        found = [one for sources in configuration().sets.values() if (one := unfinished_exchange(sources))]
    except (EngineError, OSError):
        found = []  # the page itself must not fail; `manage.py check` reports the problem
    staff = getattr(context.get("user"), "is_staff", False)
    return {"unfinished": found, "staff": staff, "recover": called("refbackup restore")}
