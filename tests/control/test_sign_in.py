"""Signing in: throttled guesses, the second factor, and their audit."""

from __future__ import annotations

from datetime import timedelta

import pytest
from axes.models import AccessAttempt
from django.db.models import F
from django.test import Client, RequestFactory
from django_otp.oath import TOTP
from django_otp.plugins.otp_totp.models import TOTPDevice

from backups.identity import login_throttling, second_factor, sign_in
from backups.models import AuditEntry
from refserver.web import ClientAddress
from tests.control.conftest import PASSWORD

LOGIN, MINE, CODE = "/admin/login/", "/admin/backup/second-factor/", "/admin/backup/second-factor/code/"


def sign(name: str, password: str, *, address: str = "192.0.2.7", client: Client | None = None, after: str = "/admin/"):
    client = client or Client()
    answer = client.post(
        LOGIN, {"username": name, "password": password, "next": after}, REMOTE_ADDR=address, headers={"accept": "text/html"}
    )
    return client, answer


def later(seconds: float) -> None:
    """Make the recorded attempts *seconds* older."""
    AccessAttempt.objects.update(attempt_time=F("attempt_time") - timedelta(seconds=seconds))


def actions() -> list[str]:
    return list(AuditEntry.objects.order_by("number").values_list("action", flat=True))


@pytest.mark.parametrize(
    ("failures", "seconds"),
    [
        (0, 0),
        (4, 0),
        (5, 30),
        (6, 60),
        (7, 120),
        (8, 240),
        (9, 480),
        (10, 960),
        (11, 1920),
        (12, 3600),
        (13, 3600),
        (10**6, 3600),
    ],
)
def test_wait_grows_up_to_an_hour(failures, seconds):
    assert login_throttling.wait_after(failures) == timedelta(seconds=seconds)


def test_after_five_wrong_passwords_the_wait_is_shown(empty_site):
    empty_site.person("ada", superuser=True)
    for _ in range(4):
        _, answer = sign("ada", "wrong")
        assert answer.status_code == 200 and "correct username and password" in answer.content.decode()
    _, answer = sign("ada", "wrong")
    assert answer.status_code == 429 and answer.headers["Retry-After"] == "30"
    assert "Wait 30 s, then try again." in answer.content.decode()
    _, answer = sign("ada", PASSWORD)
    assert answer.status_code == 429, "the correct password is not checked either"
    later(29)
    assert sign("ada", PASSWORD)[1].status_code == 429
    later(2)
    assert sign("ada", "wrong")[1].headers["Retry-After"] == "60", "the next wait is longer"
    later(61)
    assert sign("ada", PASSWORD)[1].status_code == 302
    assert not AccessAttempt.objects.exists(), "the count is reset"
    assert actions() == [
        *["account.refused"] * 5,
        "account.slowed",
        "account.refused",
        "account.slowed",
        "account.signed_in",
    ]
    slowed = AuditEntry.objects.filter(action="account.slowed").order_by("number")
    assert [entry.after for entry in slowed] == [{"seconds": 30}, {"seconds": 60}]
    assert {(entry.who, entry.address) for entry in slowed} == {("ada", "192.0.2.7")}


def test_only_that_account_at_that_address_waits(empty_site):
    empty_site.person("ada", superuser=True)
    empty_site.person("ben", superuser=True)
    for _ in range(6):
        sign("ada", "wrong")
    assert sign("ada", PASSWORD, address="192.0.2.8")[1].status_code == 302
    assert sign("ben", PASSWORD)[1].status_code == 302
    assert sign("ada", PASSWORD)[1].status_code == 429


def test_trying_many_accounts_from_one_address_is_throttled(empty_site, monkeypatch):
    monkeypatch.setattr(login_throttling, "FREE_OF_ADDRESS", 8)
    empty_site.person("ada", superuser=True)
    for number in range(8):
        sign(f"name-{number}", "wrong")
    assert sign("ada", PASSWORD)[1].status_code == 429
    assert sign("ada", PASSWORD, address="192.0.2.8")[1].status_code == 302
    later(31)
    assert sign("ada", PASSWORD)[1].status_code == 302


def test_wrong_password_is_forgotten_after_a_day(empty_site):
    empty_site.person("ada", superuser=True)
    for _ in range(4):
        sign("ada", "wrong")
    later(24 * 3600 + 1)
    assert sign("ada", "wrong")[1].status_code == 200
    assert AccessAttempt.objects.get().failures_since_start == 1


def test_posted_values_are_not_stored(empty_site):
    empty_site.person("ada", superuser=True)
    sign("ada", "only-i-know-this")
    for attempt in AccessAttempt.objects.values():
        assert "only-i-know-this" not in str(attempt)
    assert all("only-i-know-this" not in str(entry) for entry in AuditEntry.objects.values())


def test_password_confirmation_is_throttled_too(empty_site):
    user = empty_site.person("ada", superuser=True)

    def ask(password: str) -> str:
        request = RequestFactory().post("/", REMOTE_ADDR="192.0.2.7")
        request.user = user
        return sign_in.password_problem(request, password)

    assert ask(PASSWORD) == ""
    assert [ask("wrong") for _ in range(4)] == ["That is not your password. Nothing was done."] * 4
    assert "Wait 30 s, then try again." in ask("wrong")
    assert "Wait 30 s, then try again." in ask(PASSWORD)
    later(31)
    assert ask(PASSWORD) == "" and not AccessAttempt.objects.exists()


@pytest.mark.parametrize(
    ("header", "address"),
    [
        ("203.0.113.9, 198.51.100.4", "198.51.100.4"),
        ("", "127.0.0.1"),
        ("nonsense", "127.0.0.1"),
        ("[2001:db8::1]", "2001:db8::1"),
    ],
)
def test_only_the_address_added_by_the_proxy_is_used(header, address):
    seen = []
    request = RequestFactory().get("/", headers={"x-forwarded-for": header} if header else {})
    ClientAddress(lambda request: seen.append(sign_in.address_of(request)))(request)
    assert seen == [address]


def test_without_a_proxy_the_header_is_ignored(empty_site):
    empty_site.person("ada", superuser=True)
    for number in range(6):
        Client().post(LOGIN, {"username": "ada", "password": "x"}, headers={"x-forwarded-for": f"203.0.113.{number}"})
    assert set(AuditEntry.objects.values_list("address", flat=True)) == {"127.0.0.1"}
    assert "account.slowed" in actions()


# The second factor


def code_of(device: TOTPDevice, steps: int = 0) -> str:
    return f"{TOTP(device.bin_key, drift=device.drift + steps).token():06d}"


def enrol(client: Client, name: str) -> tuple[TOTPDevice, list[str]]:
    client.post(MINE, {"do": "begin"})
    device = TOTPDevice.objects.get(user__username=name, confirmed=False)
    answer = client.post(MINE, {"do": "confirm", "password": PASSWORD, "code": code_of(device)})
    assert answer.status_code == 200
    codes = list(answer.context["codes"])
    TOTPDevice.objects.update(last_t=-1)  # allow the same code again within its half minute
    device.refresh_from_db()
    return device, codes


def test_enrolling_shows_picture_key_and_codes_once(empty_site):
    client = empty_site.client("ada", superuser=True)
    page = client.post(MINE, {"do": "begin"}, follow=True).content.decode()
    device = TOTPDevice.objects.get()
    assert "<svg" in page and "style=" not in page.split("<svg")[1].split("</svg>")[0]
    assert device.config_url.startswith("otpauth://totp/RefServer")
    wrong = client.post(
        MINE, {"do": "confirm", "password": PASSWORD, "code": "000000" if code_of(device) != "000000" else "000001"}
    )
    assert wrong.status_code == 403 and "That code is wrong" in wrong.content.decode()
    stranger = client.post(MINE, {"do": "confirm", "password": "a session alone", "code": code_of(device)})
    assert stranger.status_code == 403 and "codes" not in stranger.context
    assert second_factor.device_of(device.user) is None
    TOTPDevice.objects.update(throttling_failure_count=0, throttling_failure_timestamp=None)
    answer = client.post(MINE, {"do": "confirm", "password": PASSWORD, "code": code_of(device)})
    codes = answer.context["codes"]
    assert len(set(codes)) == 10 and all(code in answer.content.decode() for code in codes)
    again = client.get(MINE).content.decode()
    assert not any(code in again for code in codes) and "has a second factor" in again
    assert client.get("/admin/").status_code == 200, "the session that enrolled is strong"
    assert "second_factor.enrolled" in actions()
    from django_otp.plugins.otp_static.models import StaticToken

    kept = set(StaticToken.objects.values_list("token", flat=True))
    assert len(kept) == 10 and not kept & {code.replace("-", "") for code in codes}, "only hashes are stored"


def test_signing_in_needs_the_code_before_anything_else(empty_site):
    device, _ = enrol(empty_site.client("ada", superuser=True), "ada")
    client, answer = sign("ada", PASSWORD, after="/admin/backup/jobs/")
    assert answer.status_code == 302
    page = client.get("/admin/backup/jobs/", headers={"accept": "text/html"})
    assert page.status_code == 302 and page.headers["Location"] == f"{CODE}?next=%2Fadmin%2Fbackup%2Fjobs%2F"
    for address in ("/", "/admin/", "/admin/auth/user/", "/admin/backup/", "/admin/backup/plans/"):
        assert client.get(address, headers={"accept": "text/html"}).headers["Location"].startswith(CODE)
    program = client.get("/admin/backup/jobs/")
    assert program.status_code == 403 and program.json()["code"] == "second_factor"
    live = client.get("/admin/backup/jobs/", headers={"hx-request": "true"})
    assert live.headers["HX-Redirect"] == CODE
    assert client.get(MINE).headers["Location"] == CODE, "it cannot be removed without a code"
    assert client.post(MINE, {"do": "remove", "password": PASSWORD}).status_code == 302
    assert second_factor.device_of(device.user) is not None
    assert client.get("/healthz").status_code == 200
    key = client.session.session_key
    answer = client.post(CODE, {"code": code_of(device), "next": "/admin/backup/jobs/"})
    assert (answer.status_code, answer.headers["Location"]) == (302, "/admin/backup/jobs/")
    assert client.session.session_key != key
    assert client.get("/admin/backup/jobs/").status_code == 200
    assert "second_factor.accepted" in actions()


def test_code_works_once_and_wrong_codes_are_throttled(empty_site):
    device, _ = enrol(empty_site.client("ada", superuser=True), "ada")
    good = code_of(device)
    client, _ = sign("ada", PASSWORD)
    assert client.post(CODE, {"code": good}).status_code == 302
    other, _ = sign("ada", PASSWORD)
    assert other.post(CODE, {"code": good}).status_code == 403, "it has been used"
    answer = other.post(CODE, {"code": code_of(device, 1)})
    assert "Try again in 1 s" in answer.content.decode(), "the correct code comes too early"
    TOTPDevice.objects.update(throttling_failure_timestamp=F("throttling_failure_timestamp") - timedelta(seconds=2))
    assert other.post(CODE, {"code": code_of(device, 1)}).status_code == 302
    assert actions().count("second_factor.refused") == 1


def test_recovery_code_works_once(empty_site):
    _, codes = enrol(empty_site.client("ada", superuser=True), "ada")
    client, _ = sign("ada", PASSWORD)
    answer = client.post(CODE, {"code": codes[3].upper()}, follow=True)
    assert "9 left" in answer.content.decode()
    other, _ = sign("ada", PASSWORD)
    assert other.post(CODE, {"code": codes[3]}).status_code == 403
    renewed = client.post(MINE, {"do": "renew", "password": PASSWORD})
    assert len(renewed.context["codes"]) == 10
    assert client.get("/admin/").status_code == 200, "a strong session stays strong"
    from django_otp.plugins.otp_static.models import StaticDevice

    StaticDevice.objects.update(throttling_failure_count=0, throttling_failure_timestamp=None)
    assert other.post(CODE, {"code": codes[4]}).status_code == 403, "the old codes no longer work"


def test_older_sessions_need_the_code_after_enrolling(empty_site):
    empty_site.person("ada", superuser=True)
    old, _ = sign("ada", PASSWORD)
    assert old.get("/admin/").status_code == 200
    new, _ = sign("ada", PASSWORD)
    enrol(new, "ada")
    assert old.get("/admin/", headers={"accept": "text/html"}).headers["Location"].startswith(CODE)


def test_removing_the_second_factor_needs_the_password(empty_site):
    client = empty_site.client("ada", superuser=True)
    device, _ = enrol(client, "ada")
    assert client.post(MINE, {"do": "remove", "password": "wrong"}).status_code == 403
    assert second_factor.device_of(device.user) is not None
    client.post(MINE, {"do": "remove", "password": PASSWORD})
    assert second_factor.device_of(device.user) is None and second_factor.codes_left(device.user) == 0
    assert sign("ada", PASSWORD)[0].get("/admin/").status_code == 200
    assert "second_factor.removed" in actions()


def test_where_required_an_account_without_device_can_only_enrol(empty_site, settings):
    settings.BACKUPS_SECOND_FACTOR = "required"
    empty_site.person("ada", superuser=True)
    client, _ = sign("ada", PASSWORD)
    for address in ("/", "/admin/", "/admin/backup/"):
        assert client.get(address, headers={"accept": "text/html"}).headers["Location"].startswith(MINE)
    assert "This site requires one" in client.get(MINE).content.decode()
    enrol(client, "ada")
    assert client.get("/admin/backup/jobs/").status_code == 200


def test_redirects_stay_on_this_site(empty_site):
    device, _ = enrol(empty_site.client("ada", superuser=True), "ada")
    for wanted in ("https://evil.example/", "//evil.example/", "javascript:alert(1)"):
        client, _ = sign("ada", PASSWORD)
        TOTPDevice.objects.update(last_t=-1)
        assert client.post(CODE, {"code": code_of(device), "next": wanted}).headers["Location"] == "/admin/"


@pytest.mark.slow
def test_command_removes_the_second_factor_of_a_lost_phone(empty_site):
    device, _ = enrol(empty_site.client("ada", superuser=True), "ada")
    done = empty_site.places.manage("backup_second_factor_remove", "ada")
    assert done.returncode == 0, done.stderr
    assert second_factor.device_of(device.user) is None
    assert empty_site.places.manage("backup_second_factor_remove", "ada").returncode == 1
    assert AuditEntry.objects.filter(action="second_factor.removed", via="command").count() == 1


def test_keys_and_codes_are_not_in_the_admin(empty_site):
    client = empty_site.client("ada", superuser=True)
    for address in ("/admin/otp_totp/totpdevice/", "/admin/otp_static/staticdevice/"):
        assert client.get(address).status_code == 404
