"""While the exchange of a restore in place is unfinished, every page and error page says so."""

import uuid
from datetime import UTC, datetime

from django.test import Client, RequestFactory
from django.views.defaults import bad_request, permission_denied, server_error

from backups.conf import configuration
from backups.engine.unfinished import STAGE, Journal, JournalStore, end_journals, write_journal

BACKUP = "20260101T000000Z-full-abcdef"
SAYS = "A restore in place is unfinished"


def test_every_page_and_error_page_names_an_unfinished_exchange(empty_site):
    sources = configuration().sources("default")
    stage = sources[0].path.parent / f"{STAGE}0123abcd"
    stage.mkdir()
    stores = tuple(JournalStore(kind=one.kind, name=one.name, path=one.path) for one in sources)
    journal = Journal(
        token=uuid.uuid4().hex,
        began=datetime.now(UTC),
        repository=empty_site.repository.folder,
        set="default",
        backup=BACKUP,
        targets=stores,
    )
    write_journal([stage], journal)
    root, nobody = empty_site.client("root", superuser=True), Client()
    pages = ("/", "/admin/", "/admin/backup/", "/admin/backup/jobs/", "/admin/consistency/", "/api/v1/docs", "/none/")
    for address in (*pages, "/admin/library/none/"):
        page = root.get(address).content.decode()
        assert SAYS in page and BACKUP in page and "--finish" in page and "--undo" in page, address
    for address in ("/", "/admin/login/", "/none/"):
        page = nobody.get(address).content.decode()
        assert SAYS in page and BACKUP not in page and str(sources[0].path) not in page, address
    request = RequestFactory().get("/")
    for answer in (server_error(request), bad_request(request, ValueError()), permission_denied(request, ValueError())):
        assert SAYS in answer.content.decode()
    end_journals([stage])
    assert SAYS not in root.get("/admin/backup/").content.decode()
