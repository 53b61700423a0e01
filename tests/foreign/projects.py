"""Generates two Django projects that know nothing of RefServer, and talks to them in processes of their own.

Together they have what a project may have: an admin site, user model, REST settings, routers and a Django-Q cluster of its own,
no time zones, a path below which it runs, a source folder, integer keys by default, sessions in cookies, no ``BASE_DIR``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

PASSWORD = "correct horse battery"

MANAGE = """
import os, sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "{source}"))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "{name}.settings")
from django.core.management import execute_from_command_line

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
"""

TALK = """
import contextlib, io, json, os, sys, traceback
from pathlib import Path

sys.path.insert(0, str(Path.cwd() / "{source}"))
os.environ["DJANGO_SETTINGS_MODULE"] = "{name}.settings"
import django

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
django.setup()
names = {{}}
for line in sys.stdin:
    try:
        exec(json.loads(line), names)
        answer = {{"answer": names.pop("answer", None)}}
    except BaseException:
        answer = {{"error": traceback.format_exc()}}
    print(json.dumps(answer, default=str), file=answers, flush=True)
"""

COMMON = """
SECRET_KEY = "of a project that is generated for a test, and long enough"
DEBUG = False
ALLOWED_HOSTS = ["*"]
STATIC_URL = "static/"
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
"""

SHOP_MODELS = """
import uuid

from django.contrib.auth.models import AbstractUser, UserManager
from django.db import models


class People(UserManager):
    def create_superuser(self, email, password):
        person = self.model(email=email, is_staff=True, is_superuser=True)
        person.set_password(password)
        person.save()
        return person


class Person(AbstractUser):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    username = None
    email = models.EmailField(unique=True)
    USERNAME_FIELD = "email"
    REQUIRED_FIELDS = []
    objects = People()


class Product(models.Model):
    name = models.TextField()
    vector = models.BinaryField(default=bytes)
"""

PAGE = (ROOT / "docs" / "how-to" / "add-to-django.md").read_text(encoding="utf-8")
BLOCK = PAGE.split("<!-- settings -->\n```python\n")[1].split("```")[0]
"""The settings that the page tells to copy."""

SHOP_SETTINGS = (
    """
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
"""
    + COMMON
    + """
INSTALLED_APPS = [
    "shop",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
]
ROOT_URLCONF = "shop.urls"
AUTH_USER_MODEL = "shop.Person"
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
TIME_ZONE = "Asia/Kolkata"
FORCE_SCRIPT_NAME = "/shop"
SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
CSRF_USE_SESSIONS = True
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": TOP / "data" / "shop.sqlite3"}}
DATABASE_ROUTERS = ["shop.routers.Everything"]
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["rest_framework.authentication.BasicAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["shop.rest.Nobody"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.StaticHTMLRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.MultiPartParser"],
    "DEFAULT_PAGINATION_CLASS": "rest_framework.pagination.LimitOffsetPagination",
    "DEFAULT_VERSIONING_CLASS": "rest_framework.versioning.AcceptHeaderVersioning",
    "DEFAULT_THROTTLE_CLASSES": ["rest_framework.throttling.AnonRateThrottle"],
    "DEFAULT_THROTTLE_RATES": {"anon": "1/day", "caller": "1/day", "changes": "1/day"},
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "shop.rest.Always",
    "EXCEPTION_HANDLER": "shop.rest.explode",
    "UNAUTHENTICATED_USER": None,
    "ALLOWED_VERSIONS": ["9"],
}
"""
    + BLOCK.replace('Path("/srv/app/data")', 'TOP / "data"').replace('Path("/srv/backups/app")', 'TOP / "backups"')
    + """
BACKUPS["SETS"]["default"].pop()  # no folder of files
CONSISTENCY = {"DECLARATION": "shop.mirror.DECLARATION", "SETTLE_SECONDS": 0.05}
"""
)

SHOP = {
    "src/shop/__init__.py": "",
    "src/shop/migrations/__init__.py": "",
    "src/shop/models.py": SHOP_MODELS,
    "src/shop/settings.py": SHOP_SETTINGS,
    "src/shop/routers.py": """
class Everything:
    def db_for_read(self, model, **hints):
        return "default"

    db_for_write = db_for_read

    def allow_migrate(self, db, app_label, **hints):
        return db == "default"
""",
    "src/shop/rest.py": """
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.permissions import BasePermission


class Nobody(BasePermission):
    def has_permission(self, request, view):
        return False


class Always(BaseContentNegotiation):
    def select_parser(self, request, parsers):
        return parsers[0]

    def select_renderer(self, request, renderers, format_suffix=None):
        return renderers[0], "text/html"


def explode(problem, context):
    raise problem
""",
    "src/shop/views.py": """
from rest_framework.views import APIView


class Prices(APIView):
    def __init__(self, **initial):
        raise RuntimeError("not to be made for the description of another interface")
""",
    "src/shop/mirror.py": """
from pathlib import Path

from consistency.declaration import Declaration, Mirror
from shop.settings import TOP

DECLARATION = Declaration(
    mirrors=(Mirror(name="products", model="shop.Product", collection="products", id="product-{pk}", vector="vector"),),
    chroma=lambda: Path(TOP / "data" / "chroma"),
)
""",
    "src/shop/urls.py": """
from django.contrib.admin import AdminSite
from django.http import HttpResponse
from django.urls import include, path

from shop.views import Prices

office = AdminSite(name="office")
office.site_header = "The office"
urlpatterns = [
    path("", lambda request: HttpResponse("open")),
    path("prices", Prices.as_view()),
    path("backups/", include("backups.urls")),
    path("office/", office.urls),
]
""",
}

DESK_SETTINGS = (
    """
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent
"""
    + COMMON
    + """
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    "django_q",
    "desk",
]
ROOT_URLCONF = "desk.urls"
TIME_ZONE = "America/Sao_Paulo"
USE_TZ = True
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "desk.sqlite3"}}
Q_CLUSTER = {"name": "desk", "orm": "default", "workers": 1, "timeout": 5, "retry": 10, "poll": 0.1, "bulk": 5}
SPECTACULAR_SETTINGS = {"TITLE": "Tickets", "VERSION": "7", "POSTPROCESSING_HOOKS": ["desk.api.explode"]}
REST_FRAMEWORK = {"DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema"}
# --- what docs/how-to/add-to-django.md says, without consistency
INSTALLED_APPS += ["backups", "drf_spectacular_sidecar"]
DATABASES["control"] = {
    "ENGINE": "django.db.backends.sqlite3",
    "NAME": BASE_DIR / "control.sqlite3",
    "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20, "init_command": "PRAGMA journal_mode=WAL"},
}
DATABASE_ROUTERS = ["backups.routing.ControlRouter"]
BACKUPS = {
    "REPOSITORIES": {"main": BASE_DIR / "backups"},
    "SETS": {
        "default": [f"sqlite:desk={BASE_DIR}/desk.sqlite3"],
        "control": [f"sqlite:control={BASE_DIR}/control.sqlite3"],
    },
    "KEPT_APART": ["control"],
    "SIGNING_KEY": BASE_DIR / "signing_key",
}
"""
)

DESK = {
    "desk/__init__.py": "",
    "desk/settings.py": DESK_SETTINGS,
    "desk/api.py": """
from rest_framework.response import Response
from rest_framework.views import APIView


class Tickets(APIView):
    def get(self, request):
        return Response([])


def explode(result, generator, request, public):
    raise RuntimeError("a hook of the project")


def work(path):
    open(path, "x").close()
""",
    "desk/urls.py": """
from django.contrib import admin
from django.urls import include, path

from desk.api import Tickets

urlpatterns = [
    path("tickets", Tickets.as_view()),
    path("ops/backups/", include("backups.urls")),
    path("admin/", admin.site.urls),
]
""",
}


@dataclass
class Project:
    """A generated project in *root*, a process that runs code in it, and the programs that were started there."""

    name: str
    root: Path
    source: str
    _child: subprocess.Popen[str] | None = None
    _programs: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DJANGO", "REFSERVER", "BACKUP"))}
        return {**kept, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error::UserWarning"}

    def manage(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``manage.py`` and wait for its end."""
        command = [sys.executable, "manage.py", *arguments]
        return subprocess.run(command, cwd=self.root, env=self.environment, capture_output=True, text=True, check=False)

    def start(self, *arguments: str) -> None:
        """Start ``manage.py``, from another folder than the project's."""
        command = [sys.executable, str(self.root / "manage.py"), *arguments]
        with (self.root / f"{arguments[0]}.log").open("wb") as log:
            self._programs.append(subprocess.Popen(command, cwd="/", env=self.environment, stdout=log, stderr=log))

    def said(self) -> str:
        """What the programs wrote."""
        return "\n".join(f"{log.name}:\n{log.read_text()}" for log in self.root.glob("*.log"))

    def run(self, code: str) -> Any:
        """Run *code* in a process of the project that stays, and return what it assigns to ``answer``."""
        if self._child is None:
            talk = TALK.format(name=self.name, source=self.source)
            command = [sys.executable, "-c", talk]
            pipe = subprocess.PIPE
            self._child = subprocess.Popen(command, cwd=self.root, env=self.environment, stdin=pipe, stdout=pipe, text=True)
        assert self._child.stdin is not None and self._child.stdout is not None
        self._child.stdin.write(json.dumps(textwrap.dedent(code)) + "\n")
        self._child.stdin.flush()
        said = json.loads(self._child.stdout.readline() or '{"error": "The process ended."}')
        assert "error" not in said, said["error"]
        return said["answer"]

    def until(self, code: str, within: float = 60.0) -> Any:
        """The first true answer of *code*."""
        deadline = time.monotonic() + within
        while not (answer := self.run(code)):
            assert time.monotonic() < deadline, f"{code}\n{self.said()}"
            time.sleep(0.1)
        return answer

    def stop(self) -> None:
        """End what was started."""
        for program in self._programs:
            program.terminate()
        if self._child is not None and self._child.stdin is not None and self._child.stdout is not None:
            self._child.stdin.close()
            self._child.stdout.close()
        for process in (*self._programs, *([self._child] if self._child else [])):
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def write(root: Path, name: str, source: str, files: dict[str, str], change: Callable[[str], str] = str) -> Project:
    """A project of *files* in *root*; *change* is applied to its settings."""
    for path, content in files.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(change(content) if path.endswith("settings.py") else content)
    (root / "data").mkdir(exist_ok=True)
    (root / "manage.py").write_text(MANAGE.format(name=name, source=source))
    return Project(name, root, source)


def shop(root: Path, change: Callable[[str], str] = str) -> Project:
    """Everything of its own, and consistency."""
    return write(root, "shop", "src", SHOP, change)


def desk(root: Path, change: Callable[[str], str] = str) -> Project:
    """Django's defaults, a Django-Q cluster of its own, and no consistency."""
    return write(root, "desk", ".", DESK, change)
