"""The whole product in two projects that know nothing of RefServer: made, backed up, proven, checked, shown, restored."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.foreign.projects import PASSWORD, Project, desk, shop

pytestmark = pytest.mark.slow

PREPARE = f"""
import io, json
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.test import Client

root = get_user_model().objects.create_superuser({{name}}, password={PASSWORD!r})
out = io.StringIO()
scopes = [f"--scope={{{{scope}}}}" for scope in ("read", "backup", "restore", "consistency")]
call_command("backup_token", {{name}}, *scopes, stdout=out, stderr=io.StringIO())
browser = Client()
assert browser.login(username={{name}}, password={PASSWORD!r})
robot = Client(headers={{{{"Authorization": "Bearer " + out.getvalue().strip()}}}})

def ended(number):
    from backups.models import Job
    job = Job.objects.get(pk=number)
    return job.state in Job.ENDED and [job.state, job.error, job.result]
"""

CHROMA = """
import chromadb, numpy
from shop.models import Product

client = chromadb.PersistentClient("data/chroma")
vectors = {1: [1.0, 0.0, 2.0], 2: [0.5, 3.0, 1.0]}
for number, vector in vectors.items():
    Product.objects.create(pk=number, name=f"product {number}", vector=numpy.array(vector, "<f4").tobytes())
client.create_collection("products", embedding_function=None).add(
    ids=[f"product-{number}" for number in vectors], embeddings=list(vectors.values())
)
client.close()
"""


def made(project: Project, *labels: str) -> Project:
    """*project* with the tables of its own apps, and then all that `backups_init` makes."""
    for arguments in (*(("makemigrations", label, "-v0") for label in labels), ("migrate", "-v0"), ("backups_init", "--json")):
        done = project.manage(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
    return project


@pytest.fixture(scope="module")
def the_shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    project = made(shop(tmp_path_factory.mktemp("foreign") / "shop"), "shop")
    try:
        project.run(PREPARE.format(name="'ada@example.org'"))
        project.run(CHROMA)
        project.start("backups_worker", "--web", "sleep 1000")
        yield project
    finally:
        project.stop()


@pytest.fixture(scope="module")
def the_desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    project = made(desk(tmp_path_factory.mktemp("foreign") / "desk"))
    try:
        project.run(PREPARE.format(name="'ada'"))
        project.start("backups_worker")
        yield project
    finally:
        project.stop()


def api(project: Project, top: str, method: str, path: str, **body: object) -> dict:
    """An answer of the REST interface to a token, with its status."""
    sent = f", json.dumps({body!r}), content_type='application/json'" if method != "get" else ""
    code = f"got = robot.{method}({top + path!r}{sent})\nanswer = {{'status': got.status_code, **got.json()}}"
    answer: dict = project.run(code)
    return answer


def done(project: Project, job: str) -> dict:
    """The result of a job that succeeds."""
    state, error, result = project.until(f"answer = ended({job!r})", 120)
    assert state == "succeeded", (error, project.said())
    return result or {}


def test_nothing_is_missing_and_no_migration_is_proposed(the_shop, the_desk):
    for project in (the_shop, the_desk):
        found = project.run("from django.core.checks import run_checks\nanswer = [one.id for one in run_checks()]")
        assert set(found) <= {"consistency.W001", "backups.W021"}, found
        project.run("call_command('makemigrations', '--check', '--dry-run', verbosity=0)")
        again = "out = io.StringIO()\ncall_command('backups_init', '--json', stdout=out)\nanswer = json.loads(out.getvalue())"
        answer = project.run(again)
        assert answer["made"] == [] and len(answer["there"]) == 5
        tables = project.run(
            "from django.db import connections\n"
            "answer = {one: connections[one].introspection.table_names() for one in ('default', 'control')}"
        )
        assert {"backups_job", "django_q_ormq"} <= {*tables["control"]} and "auth_user" not in tables["control"]
        assert not any(name.startswith("backups_") for name in tables["default"])
        assert ("django_q_ormq" in tables["default"]) == (project is the_desk)  # its own cluster's


def test_backup_proof_check_and_restore_with_everything_of_its_own(the_shop):
    top = "/backups/api/v1/"
    queued = api(the_shop, top, "post", "backups", note="first")
    assert queued["status"] == 202, queued
    made_backup = done(the_shop, queued["id"])
    assert made_backup["verification"] == "restore"
    listed = api(the_shop, top, "get", "backups")
    assert [one["id"] for one in listed["items"]] == [made_backup["id"]] and listed["items"][0]["time"].endswith(
        ("Z", "+00:00")
    )
    assert listed["items"][0]["proof"] == "restore"
    # Check now, from the page
    code = "got = browser.post('/backups/consistency/check/')\nanswer = [got.status_code, got.headers['Location']]"
    status, onward = the_shop.run(code)
    assert (status, onward) == (302, "/shop/backups/consistency/")
    job = the_shop.run("from backups.models import Job\nanswer = str(Job.objects.get(kind='check_consistency').pk)")
    assert done(the_shop, job)["state"] == "consistent"
    # A restore in place takes back what came later, and keeps the token of an account with a UUID
    the_shop.run("Product.objects.create(name='later')\nfrom django.db import connections\nconnections.close_all()")
    known = "from backups.identity import accounts, known_accounts\nknown_accounts.observe(accounts.read_live())"
    the_shop.run(known)
    queued = api(
        the_shop, top, "post", f"backups/{made_backup['id']}/restore", to="in_place", confirm=made_backup["id"], code="any"
    )
    assert queued["status"] == 202, queued
    done(the_shop, queued["id"])
    assert the_shop.run("answer = Product.objects.count()") == 2
    assert api(the_shop, top, "get", "status")["status"] == 200


def test_pages_below_a_path_in_an_admin_site_of_its_own(the_shop):
    pages = the_shop.run(
        """
        from django.urls import reverse

        names = ["dashboard", "backups", "restore", "jobs", "plans", "readiness", "alerts", "tokens", "audit"]
        addresses = [reverse(f"backups:{name}") for name in names] + [reverse("consistency:overview")]
        got = {one: browser.get(one.removeprefix("/shop")) for one in addresses}
        answer = {one: [page.status_code, page.content.decode()] for one, page in got.items()}
        """
    )
    for address, (status, text) in pages.items():
        assert status == 200 and address.startswith("/shop/backups/"), (address, status)
        assert "The office" in text and 'href="/shop/office/' in text, address
        assert "RefServer" not in text and "manage.py serve" not in text, address
    code = "got = Client().get('/backups/jobs/')\nanswer = [got.status_code, got.headers['Location']]"
    assert the_shop.run(code) == [302, "/shop/office/login/?next=/shop/backups/jobs/"]


def test_interface_and_its_description_are_independent_of_the_projects(the_shop, the_desk):
    for project, top, prefix in ((the_shop, "/backups/api/v1/", "/shop"), (the_desk, "/ops/backups/api/v1/", "")):
        described = api(project, top, "get", "schema")
        assert described["info"]["title"] == "Backups" and described["openapi"].startswith("3.1")
        assert all(path.startswith(top.removesuffix("api/v1/")) for path in described["paths"]), described["paths"].keys()
        assert [one["url"] for one in described.get("servers", [])] == ([prefix] if prefix else [])
        refused = project.run(f"got = Client().get({top + 'jobs'!r})\nanswer = [got.status_code, got.headers['Content-Type']]")
        assert refused == [401, "application/problem+json"]
        unknown = api(project, top, "get", "nothing")
        assert unknown["status"] == 404 and f"{prefix}{top}schema" in unknown["hint"]


def test_both_clusters_run_their_own_tasks_only(the_desk):
    marked = the_desk.root / "worked"
    the_desk.start("qcluster")
    queued = api(the_desk, "/ops/backups/api/v1/", "post", "backups")
    the_desk.run(f"from django_q.tasks import async_task\nasync_task('desk.api.work', {str(marked)!r})")
    done(the_desk, queued["id"])
    counts = (
        "from django_q.models import OrmQ, Task\n"
        "answer = Task.objects.using('default').filter(func='desk.api.work', success=True).count() == 1"
    )
    the_desk.until(counts)
    assert marked.exists()
    functions = "answer = sorted(set(Task.objects.using({!r}).values_list('func', flat=True)))"
    assert the_desk.run(functions.format("default")) == ["desk.api.work"]
    assert the_desk.run(functions.format("control")) == []


def test_a_restore_of_sessions_signs_everybody_out(the_desk):
    queued = api(the_desk, "/ops/backups/api/v1/", "post", "backups", set="default")
    made_backup = done(the_desk, queued["id"])
    assert the_desk.run("answer = browser.get('/ops/backups/').status_code") == 200
    the_desk.run("from django.db import connections\nconnections.close_all()")
    path = f"backups/{made_backup['id']}/restore"
    queued = api(the_desk, "/ops/backups/api/v1/", "post", path, to="in_place", confirm=made_backup["id"], code="any")
    assert done(the_desk, queued["id"])["accounts"]["sessions_ended"] >= 1
    assert the_desk.run("answer = browser.get('/ops/backups/').status_code") == 302


SERVE = """
import threading
from wsgiref.simple_server import WSGIRequestHandler, make_server
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIServer
import mimetypes
from pathlib import Path
from django.contrib.staticfiles import finders
from django.core.wsgi import get_wsgi_application

class Quiet(WSGIRequestHandler):
    def log_message(self, *args):
        pass

class Threads(ThreadingMixIn, WSGIServer):
    daemon_threads = True

application = get_wsgi_application()

def below(environ, start):
    path = environ["PATH_INFO"] = environ["PATH_INFO"].removeprefix("/shop")
    file = finders.find(path.removeprefix("/static/")) if path.startswith("/static/") else None
    if file is None:
        return application(environ, start)
    start("200 OK", [("Content-Type", mimetypes.guess_type(file)[0] or "text/plain")])
    return [Path(file).read_bytes()]

server = make_server("127.0.0.1", 0, below, server_class=Threads, handler_class=Quiet)
threading.Thread(target=server.serve_forever, daemon=True).start()
answer = server.server_port
"""


def test_pages_work_in_a_browser(the_shop):
    from tests.browser import served

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium is installed: apt-get install chromium")
    the_shop.run("from backups.models import Job")
    port = the_shop.run(SERVE)
    before = the_shop.run("answer = Job.objects.filter(kind='backup').count()")
    with served.browser(chromium) as opened:
        page = opened.new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("response", lambda response: problems.append(response.url) if response.status >= 400 else None)
        page.goto(f"http://127.0.0.1:{port}/shop/backups/")
        page.fill("input[name=username]", "ada@example.org")
        page.fill("input[name=password]", PASSWORD)
        page.click("[type=submit]")
        page.wait_for_url("**/shop/backups/")
        page.locator("summary", has_text="Back up").click()
        page.get_by_role("button", name="Back up", exact=True).last.click()
        the_shop.until(f"answer = Job.objects.filter(kind='backup').count() > {before}", 20)
        assert not [one for one in problems if not one.endswith("favicon.ico")], "\n".join(problems)
