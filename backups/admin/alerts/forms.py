"""Fields and widgets that the forms of rules, channels and subscriptions share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.db.models import QuerySet

from backups.models import Severity

if TYPE_CHECKING:
    ModelForm = forms.ModelForm[Any]
else:  # the class cannot be subscripted when it runs
    ModelForm = forms.ModelForm


class Checkboxes(forms.CheckboxSelectMultiple):
    """Checkboxes in a fieldset."""

    use_fieldset = True


def multiple_choice(rows: QuerySet[Any], label: str, help_text: str) -> forms.ModelMultipleChoiceField[Any]:
    """An optional field with one checkbox for each row."""
    return forms.ModelMultipleChoiceField(rows, widget=Checkboxes, required=False, label=label, help_text=help_text)


def severity_choice(label: str, empty: str) -> forms.ChoiceField:
    """An optional minimum severity; *empty* is the label of no severity."""
    return forms.ChoiceField(choices=[("", empty), *Severity.choices], label=label, required=False)


class QuietHoursForm(ModelForm):
    """The fields of quiet hours."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, label in (("quiet_from", "Quiet from"), ("quiet_until", "Quiet until")):
            widget = forms.TimeInput(attrs={"type": "time"}, format="%H:%M")
            self.fields[name] = forms.TimeField(required=False, label=label, widget=widget)
        self.fields["time_zone"].label = "Time zone"
        self.fields["time_zone"].help_text = "For example UTC or Europe/Berlin."
        self.fields["critical_passes"].label = "Send critical alerts during quiet hours"
        self.fields["critical_passes"].help_text = ""
