"""Addresses of all pages: ``path("admin/backup/", include("backups.admin.urls"))``. `errors` has their error pages."""

import re

from django.apps import apps
from django.urls import URLPattern, path, register_converter
from django.urls.converters import StringConverter

from backups.catalog.downloads import FILES

from . import approvals, audit, dashboard, jobs, plans, readiness, step_up, tokens
from .alerts import channels, rules, subscription
from .alerts import overview as alerts
from .backups import delete, holding
from .backups import detail as backup
from .backups import list as backups
from .restore import report, steps


class _FileName(StringConverter):
    regex = "|".join(re.escape(name) for name in FILES)


class _Switch(StringConverter):
    regex = "pause|resume|run"


register_converter(_FileName, "rb_download")
register_converter(_Switch, "rb_switch")

app_name = "backups"
urlpatterns: list[URLPattern] = [
    path("", dashboard.overview, name="dashboard"),
    path("active/", dashboard.active, name="active"),
    path("back-up/", dashboard.back_up, name="back_up"),
    path("figures/", dashboard.figures, name="figures"),
    path("backups/", backups.overview, name="backups"),
    path("backups/chosen/", backups.act_on_selected, name="chosen"),
    path("backups/release/", holding.release, name="release"),
    path("backups/forget/", backups.forget, name="forget_missing"),
    path("backups/delete/", delete.delete, name="delete"),
    path("backups/<str:backup_id>/", backup.backup, name="backup"),
    path("backups/<str:backup_id>/do/", backup.act, name="backup_act"),
    path("backups/<str:backup_id>/<rb_download:name>", backup.download, name="download"),
    path("restore/", steps.choose_backup, name="restore"),
    path("restore/what/", steps.choose_target, name="restore_what"),
    path("restore/changes/", steps.changes, name="restore_changes"),
    path("restore/look/<uuid:job_id>/", steps.preview, name="restore_look"),
    path("restore/confirm/", steps.confirm, name="restore_confirm"),
    path("restore/report/<uuid:job_id>/", report.report, name="restore_report"),
    path("restore/report/<uuid:job_id>/live/", report.report_live, name="restore_report_live"),
    path("jobs/ended/", jobs.ended, name="jobs_ended"),
    path("jobs/", jobs.overview, name="jobs"),
    path("jobs/<uuid:job_id>/", jobs.job, name="job"),
    path("jobs/<uuid:job_id>/live/", jobs.live, name="job_live"),
    path("jobs/<uuid:job_id>/log/", jobs.download, name="job_log"),
    path("jobs/<uuid:job_id>/cancel/", jobs.cancel, name="cancel"),
    path("jobs/<uuid:job_id>/again/", jobs.again, name="again"),
    path("plans/", plans.overview, name="plans"),
    # No plan's name begins with "-", so the next five never hide a plan
    path("plans/-/new/", plans.new, name="plan_new"),
    path("plans/-/import/", plans.import_plans, name="plan_import"),
    path("plans/-/export.yaml", plans.export, name="plan_export"),
    path("plans/-/times/", plans.times, name="plan_times"),
    path("plans/-/retention/", plans.retention, name="plan_retention"),
    path("plans/<str:name>/", plans.one, name="plan"),
    path("plans/<str:name>/delete/", plans.delete, name="plan_delete"),
    path("plans/<str:name>/<rb_switch:what>/", plans.switch, name="plan_switch"),
    path("readiness/", readiness.overview, name="readiness"),
    path("readiness/drill/", readiness.drill, name="drill"),
    path("alerts/", alerts.overview, name="alerts"),
    path("alerts/mine/", subscription.subscription, name="alerts_mine"),
    path("alerts/rules/new/", rules.rule_new, name="alert_rule_new"),
    path("alerts/rules/<str:name>/", rules.rule, name="alert_rule"),
    path("alerts/rules/<str:name>/switch/", rules.rule_switch, name="alert_rule_switch"),
    path("alerts/rules/<str:name>/remove/", rules.rule_remove, name="alert_rule_remove"),
    path("alerts/channels/new/<str:kind>/", channels.channel_new, name="alert_channel_new"),
    path("alerts/channels/<int:pk>/", channels.channel, name="alert_channel"),
    path("alerts/channels/<int:pk>/test/", channels.channel_test, name="alert_channel_test"),
    path("alerts/channels/<int:pk>/key/", channels.channel_key, name="alert_channel_key"),
    path("alerts/channels/<int:pk>/remove/", channels.channel_remove, name="alert_channel_remove"),
    path("alerts/<uuid:alert_id>/", alerts.alert, name="alert"),
    path("alerts/<uuid:alert_id>/acknowledge/", alerts.acknowledge, name="alert_acknowledge"),
    path("tokens/", tokens.overview, name="tokens"),
    path("tokens/<int:token_id>/revoke/", tokens.revoke, name="token_revoke"),
    path("tokens/<int:token_id>/resume/", tokens.resume, name="token_resume"),
    path("audit/", audit.overview, name="audit"),
    path("audit/verify/", audit.verify, name="audit_verify"),
    path("audit/export.<str:form>", audit.export, name="audit_export"),
    path("approvals/", approvals.overview, name="approvals"),
    path("approvals/<uuid:key>/decide/", approvals.decide, name="approval_decide"),
    path("confirm/", step_up.confirm, name="confirm"),
]
if apps.is_installed("django_otp.plugins.otp_totp") and apps.is_installed("django_otp.plugins.otp_static"):
    from . import second_factor  # its models must be installed

    urlpatterns += [
        path("second-factor/", second_factor.overview, name="second_factor"),
        path("second-factor/code/", second_factor.code, name="second_factor_code"),
    ]
