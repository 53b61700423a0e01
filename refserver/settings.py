"""Settings.

Settings that differ between machines come from the environment or `.env`; `.env.example` lists them.
"""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any
from zoneinfo import available_timezones

from django.core.exceptions import ImproperlyConfigured
from whitenoise.compress import Compressor  # type: ignore[import-untyped]

from backups.engine.config import ENGINE_SETTINGS, SOURCE_SETTINGS
from backups.engine.errors import UsageError
from backups.engine.runtime.environment import Environment
from refserver.databases import control_database, queue, sqlite

BASE_DIR = Path(__file__).resolve().parent.parent
_env = Environment.load_project(BASE_DIR)

# --- Where the data is --------------------------------------------------------------------------------------
REFSERVER_DATABASE = _env.file("REFSERVER_DATABASE", "var/data/refserver.sqlite3")
CHROMA_PATH = _env.path("CHROMA_PATH", "var/data/chroma")
REFSERVER_FILES = _env.path("REFSERVER_FILES", "var/data/documents")
# The file, or the address of a PostgreSQL database, without the password
_CONTROL, REFSERVER_CONTROL_DATABASE = control_database(_env, "REFSERVER_CONTROL_DATABASE", "var/control.sqlite3")
BACKUP_REPOSITORY = _env.text("BACKUP_REPOSITORY", "var/backups")
if "://" not in BACKUP_REPOSITORY:  # the address of an object store is used unchanged
    BACKUP_REPOSITORY = str(_env.path("BACKUP_REPOSITORY", "var/backups"))
BACKUP_SIGNING_KEY = _env.path("BACKUP_SIGNING_KEY", "var/signing_key")
BACKUP_ENCRYPTION_KEY = _env.path("BACKUP_ENCRYPTION_KEY", "var/encryption_key")
BACKUP_TRUSTED_KEYS = [key for key in _env.text("BACKUP_TRUSTED_KEYS", "").split(os.pathsep) if key]
_SECOND_REPOSITORY = _env.text("BACKUP_SECOND_REPOSITORY", "")
REFSERVER_RUN_DIR = _env.path("REFSERVER_RUN_DIR", "var/run")
REFSERVER_RESTORED = _env.path("REFSERVER_RESTORED", "var/restored")
STATIC_ROOT = _env.folder("REFSERVER_STATIC_ROOT", "var/static")  # whitenoise warns if it is missing

# --- The library --------------------------------------------------------------------------------------------
REFSERVER_EMBEDDING = _env.text("REFSERVER_EMBEDDING", "hashing", choices={"hashing", "chroma"})
REFSERVER_MAX_DOCUMENT_MB = _env.integer("REFSERVER_MAX_DOCUMENT_MB", 100, least=1, most=2000)
REFSERVER_OPEN_LIBRARY = _env.flag("REFSERVER_OPEN_LIBRARY", default=False)

# --- The web server -----------------------------------------------------------------------------------------
REFSERVER_BIND = _env.text("REFSERVER_BIND", "127.0.0.1")
REFSERVER_PORT = _env.integer("REFSERVER_PORT", 8000, least=1, most=65535)
REFSERVER_THREADS = _env.integer("REFSERVER_THREADS", 8, least=1, most=64)
DEBUG = _env.flag("REFSERVER_DEBUG", default=False)
ALLOWED_HOSTS = _env.names("REFSERVER_ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]")
CSRF_TRUSTED_ORIGINS = _env.names("REFSERVER_TRUSTED_ORIGINS", "")
SECRET_KEY = _env.lasting_secret("REFSERVER_SECRET_KEY", BASE_DIR / "var" / "secret_key")
ADMIN_USER = _env.text("REFSERVER_ADMIN_USER", "admin")
ADMIN_PASSWORD = _env.secret("REFSERVER_ADMIN_PASSWORD")
_HTTPS = _env.flag("REFSERVER_HTTPS", default=False)
REFSERVER_BEHIND_PROXY = _env.flag("REFSERVER_BEHIND_PROXY", default=False)
REFSERVER_WITHOUT_PROXY = _env.flag("REFSERVER_WITHOUT_PROXY", default=False)
REFSERVER_DRAIN_SECONDS = _env.integer("REFSERVER_DRAIN_SECONDS", 600, least=0, most=86_400)

_HOST = _env.text("REFSERVER_HOST", "")
_JOBS_AT_ONCE = _env.integer("REFSERVER_JOBS_AT_ONCE", 2, least=1, most=64)
_QUEUE = queue(_env, "REFSERVER_QUEUE")
BACKUPS_QUEUE_PASSWORD = _QUEUE.pop("password", "")
_PROMISED_RPO = _env.integer("REFSERVER_PROMISED_RPO_MINUTES", 60, least=1, most=1_000_000)
_PROMISED_RTO = _env.integer("REFSERVER_PROMISED_RTO_MINUTES", 5, least=1, most=1_000_000)

_SESSION_IDLE_HOURS = _env.integer("REFSERVER_SESSION_IDLE_HOURS", 12, least=0, most=10_000)
_STEP_UP_MINUTES = _env.integer("REFSERVER_STEP_UP_MINUTES", 10, least=0, most=10_000)
_FOUR_EYES = _env.flag("REFSERVER_FOUR_EYES", default=False)
_SECOND_FACTOR = _env.text("REFSERVER_SECOND_FACTOR", "optional", choices={"optional", "required"})

TIME_ZONE = _env.text("REFSERVER_TIME_ZONE", "UTC")
if TIME_ZONE not in available_timezones():
    _env.problem("REFSERVER_TIME_ZONE", f"{TIME_ZONE!r} is not a time zone", "use a name such as UTC or Europe/Berlin")
# Mail, for alerts, in Django's own settings.
EMAIL_HOST = _env.text("REFSERVER_EMAIL_HOST", "")
EMAIL_PORT = _env.integer("REFSERVER_EMAIL_PORT", 587, least=1, most=65535)
_EMAIL_SECURITY = _env.text("REFSERVER_EMAIL_SECURITY", "starttls", choices={"none", "starttls", "tls"})
EMAIL_USE_TLS, EMAIL_USE_SSL = _EMAIL_SECURITY == "starttls", _EMAIL_SECURITY == "tls"
EMAIL_HOST_USER = _env.text("REFSERVER_EMAIL_USER", "")
EMAIL_HOST_PASSWORD = _env.secret("REFSERVER_EMAIL_PASSWORD")
EMAIL_TIMEOUT = _env.integer("REFSERVER_EMAIL_TIMEOUT", 10, least=1, most=60)
DEFAULT_FROM_EMAIL = SERVER_EMAIL = _env.text("REFSERVER_EMAIL_FROM", "refserver@localhost")
if EMAIL_HOST_USER and _EMAIL_SECURITY == "none" and EMAIL_HOST not in {"localhost", "127.0.0.1", "::1"}:
    _env.problem("REFSERVER_EMAIL_SECURITY", "the password would be sent unencrypted", "use starttls or tls")
_ADDRESS = _env.text("REFSERVER_ADDRESS", "")
_ALERT_HOSTS = _env.names("REFSERVER_ALERT_HOSTS", "")

_LOG_FORMAT = _env.text("REFSERVER_LOG_FORMAT", "line", choices={"line", "json"})
_LOG_LEVEL = _env.text("REFSERVER_LOG_LEVEL", "INFO", choices={"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"})

# The stores have names of their own here
ENVIRONMENT_NAMES = frozenset(_env.asked) | ENGINE_SETTINGS.difference(SOURCE_SETTINGS.values())
UNKNOWN_SETTINGS = _env.unknown(ENVIRONMENT_NAMES)  # `refserver.checks` warns of them
try:
    _env.check()
except UsageError as _problem:
    raise ImproperlyConfigured(_problem.message) from None

# --- Backups ------------------------------------------------------------------------------------------------
# A PostgreSQL server is backed up with its own tools (docs/how-to/run-on-several-hosts.md)
_CONTROL_SET = {"control": [f"sqlite:control={_CONTROL['NAME']}"]} if "sqlite3" in _CONTROL["ENGINE"] else {}
BACKUPS: dict[str, Any] = {
    "DATABASE": "control",
    "CONTROL_APPS": ["sessions", "axes"],
    "REPOSITORIES": {
        "main": BACKUP_REPOSITORY,
        **({"second": str(_env.path("BACKUP_SECOND_REPOSITORY", ""))} if _SECOND_REPOSITORY else {}),
    },
    "SETS": {
        "default": [
            f"sqlite:refserver={REFSERVER_DATABASE}",
            f"chroma:chroma={CHROMA_PATH}",
            f"files:documents={REFSERVER_FILES}",
        ],
        **_CONTROL_SET,
    },
    "KEPT_APART": [*_CONTROL_SET],
    "QUEUE": _QUEUE,
    "MANAGE": str(BASE_DIR / "manage.py"),
    "HOST": _HOST,
    "JOBS_AT_ONCE": _JOBS_AT_ONCE,
    "RESTORE_FOLDER": str(REFSERVER_RESTORED),
    "RUN_FOLDER": str(REFSERVER_RUN_DIR),
    "SIGNING_KEY": str(BACKUP_SIGNING_KEY),
    "TRUSTED_KEYS": BACKUP_TRUSTED_KEYS,
    "ENCRYPTION_KEY": str(BACKUP_ENCRYPTION_KEY),
    "ADDRESS": _ADDRESS,
    "ALERT_HOSTS": _ALERT_HOSTS,
    "CALLED": {
        "manage.py backups_worker": "manage.py serve",
        "refbackup restore": "scripts/disaster_recovery.sh",
        "BACKUPS['ALERT_HOSTS']": "REFSERVER_ALERT_HOSTS",
        "BACKUPS['PROMISED_RTO_MINUTES']": "REFSERVER_PROMISED_RTO_MINUTES",
        "BACKUPS['REPOSITORIES']": "BACKUP_SECOND_REPOSITORY",
        "EMAIL_HOST": "REFSERVER_EMAIL_HOST",
        "EMAIL_USE_TLS": "REFSERVER_EMAIL_SECURITY",
    },
    "PROMISED_RPO_MINUTES": _PROMISED_RPO,
    "PROMISED_RTO_MINUTES": _PROMISED_RTO,
}
CONSISTENCY = {
    "DECLARATION": "refserver.library.consistency.DECLARATION",
}
# --- Applications -------------------------------------------------------------------------------------------
INSTALLED_APPS = [
    "refserver",
    "refserver.library",
    "backups_consistency",
    "backups",
    "consistency",
    "django_q",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_otp",
    "django_otp.plugins.otp_static",
    "django_otp.plugins.otp_totp",
    "axes",
]
MIDDLEWARE = [
    *(["refserver.web.ClientAddress"] if REFSERVER_BEHIND_PROXY else []),
    "refserver.web.PageHeaders",
    "refserver.web.RequestSizeLimit",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "backups.identity.sessions.IdleLimit",
    "refserver.web.EitherSlash",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django_otp.middleware.OTPMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "backups.identity.second_factor.Gate",
    "axes.middleware.AxesMiddleware",
]
ROOT_URLCONF = "refserver.urls"
WSGI_APPLICATION = "refserver.wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
TEMPLATES: list[dict[str, Any]] = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

# --- Databases ----------------------------------------------------------------------------------------------

DATABASES = {"default": sqlite(REFSERVER_DATABASE), "control": _CONTROL}
DATABASE_ROUTERS = ["backups.routing.ControlRouter"]

# --- Security -----------------------------------------------------------------------------------------------
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}Validator"}
    for name in ("UserAttributeSimilarity", "MinimumLength", "CommonPassword", "NumericPassword")
]
# Wrong passwords are throttled (backups.identity.login_throttling); axes only counts, the audit keeps the rest.
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
AXES_HANDLER = "backups.identity.login_throttling.Handler"
AXES_LOCKOUT_CALLABLE = "backups.identity.login_throttling.answer"
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_FAILURE_LIMIT = 5
AXES_COOLOFF_TIME = timedelta(days=1)
AXES_RESET_ON_SUCCESS = True
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False
AXES_DISABLE_ACCESS_LOG = True
AXES_ENABLE_ADMIN = AXES_VERBOSE = False
BACKUPS_SECOND_FACTOR = _SECOND_FACTOR
BACKUPS_SESSION_IDLE_HOURS = _SESSION_IDLE_HOURS
BACKUPS_FOUR_EYES = _FOUR_EYES
BACKUPS_STEP_UP_MINUTES = _STEP_UP_MINUTES
SESSION_ENGINE = "backups.identity.sessions"
OTP_TOTP_ISSUER = "RefServer"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = _HTTPS
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_AGE = 14 * 24 * 3600
# No redirect to HTTPS: the proxy that terminates TLS does it, and health checks use plain HTTP.
SECURE_HSTS_SECONDS = 365 * 24 * 3600 if _HTTPS else 0
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if REFSERVER_BEHIND_PROXY else None
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
SILENCED_SYSTEM_CHECKS = ["security.W008"]  # SECURE_SSL_REDIRECT is left to the proxy
LOGIN_URL = "admin:login"

# --- Pages --------------------------------------------------------------------------------------------------
LANGUAGE_CODE = "en"
USE_I18N = True
USE_TZ = True
STATIC_URL = "/static/"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "refserver.web.CollectedFiles"},
}
# Only debuggers load source maps, and compressing them would take as long as everything else together
WHITENOISE_SKIP_COMPRESS_EXTENSIONS = [*Compressor.SKIP_COMPRESS_EXTENSIONS, "map"]

# --- The REST interface -------------------------------------------------------------------------------------
# The defaults of backups.api, also for the routes that other apps add below /api/v1/ (backups.api.urls).
REST_FRAMEWORK: dict[str, Any] = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["backups.api.authentication.Bearer", "backups.api.authentication.AdminSession"],
    "DEFAULT_PERMISSION_CLASSES": ["backups.api.permissions.Permitted"],
    "DEFAULT_THROTTLE_CLASSES": [f"backups.api.throttling.{name}Rate" for name in ("Anonymous", "Caller", "Changes")],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_SCHEMA_CLASS": "backups.api.openapi.Describer",
    "EXCEPTION_HANDLER": "backups.api.problems.answer",
    "UNAUTHENTICATED_USER": "django.contrib.auth.models.AnonymousUser",
}
CACHES = {
    # Counts requests, for throttling. Several web processes must share one, such as django.core.cache.backends.redis.
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "OPTIONS": {"MAX_ENTRIES": 10_000}},
}

LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"job": {"()": "backups.jobs.logs.JobFilter"}},
    "formatters": {
        "line": {"()": "backups.jobs.logs.LineFormatter", "format": "{asctime} {levelname} {name}: {message}", "style": "{"},
        "json": {"()": "backups.jobs.logs.JsonFormatter"},
    },
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": _LOG_FORMAT, "filters": ["job"]}},
    "root": {"handlers": ["stderr"], "level": _LOG_LEVEL},
    "loggers": {
        "django": {"handlers": ["stderr"], "level": _LOG_LEVEL, "propagate": False},
        "axes": {"level": "ERROR"},  # the audit records logins
        # The workers log one line a job themselves (backups.jobs.runner).
        "django-q": {"level": "WARNING"},
        # pypdf logs every oddity of a file; what makes a file unreadable is raised and reported.
        "pypdf": {"level": "CRITICAL"},
    },
}
