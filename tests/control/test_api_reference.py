"""The tables of ``docs/reference/api.md`` match the code. ``python -m tests.control.test_api_reference`` rewrites them."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "api.md"
HEAD = "| method and address | summary | permission | scope |\n| --- | --- | --- | --- |"
OWN = {
    "bad_token": 401, "csrf": 403, "session_refused": 403, "second_factor": 403, "step_up": 403, "scope": 403,
    "code_unconfirmed": 409, "approval": 403, "session_needed": 403,
    "idempotency_key": 400, "cursor": 400, "json": 400, "no_session": 409, "not_ended": 409, "idempotency_key_in_use": 409,
    "length": 411, "idempotency_key_used": 422, "database": 503,
}  # fmt: skip


def tables() -> dict[str, str]:
    """The generated tables by name."""
    from backups.api import problems, throttling
    from backups.api.reference import description
    from backups.engine import errors
    from backups.identity.permissions import SCOPES

    routes, rows = {}, [HEAD]
    for path, methods in description()["paths"].items():
        for method, operation in methods.items():
            if path.startswith("/api/v1/") and "consistency" in path:
                continue  # has its own page
            permission = operation.get("x-permission", "")
            scopes = [f"`{scope}`" for scope, names in SCOPES.items() if permission in names]
            cells = [
                f"`{method.upper()} {path}`",
                operation["summary"],
                f"`{permission}`" if permission else "",
                ", ".join(scopes),
            ]
            routes[(operation["tags"] == ["Earlier clients"], path, method)] = f"| {' | '.join(cells)} |"
    rows += [routes[key] for key in sorted(routes)]
    codes: dict[int, set[str]] = {}
    for code, status in OWN.items():
        codes.setdefault(status, set()).add(code)
    for status, code in problems.CODES.items():
        codes.setdefault(status, set()).add(code)
    for kind in errors.tree():
        codes.setdefault(errors.HTTP_STATUS.get(kind.code, 500), set()).add(kind.code)
    return {
        "routes": "\n".join(rows),
        "scopes": "\n".join(
            f"| `{scope}` | {', '.join(f'`{name}`' for name in names) or '`GET /metrics`'} |" for scope, names in SCOPES.items()
        ),
        "codes": "\n".join(
            f"| {status} | {', '.join(f'`{code}`' for code in sorted(codes[status]))} |" for status in sorted(codes)
        ),
        "rates": "\n".join(
            f"| `{rate.scope}` | {rate.default} | {(rate.__doc__ or '').strip('.')} |" for rate in throttling.RATES
        ),
    }


def written(text: str) -> str:
    """The page with current tables."""
    made = tables()
    part = re.compile(r"(<!-- (scopes|routes|codes|rates) -->\n).*?(<!-- end -->)", re.DOTALL)
    return part.sub(lambda found: f"{found[1]}{made[found[2]]}\n{found[3]}", text)


def test_tables_are_current():
    text = PAGE.read_text(encoding="utf-8")
    assert text == written(text), "run: python -m tests.control.test_api_reference"


def test_every_code_is_in_the_table():
    """Every code that the sources of the interface use."""
    named = set()
    for source in (PAGE.parents[2] / "backups" / "api").rglob("*.py"):
        named |= set(re.findall(r"Refused\(\s*\d{3},\s*\"(\w+)\"", source.read_text(encoding="utf-8")))
    listed = set(re.findall(r"`(\w+)`", tables()["codes"]))
    assert named <= listed, named - listed


if __name__ == "__main__":
    import django

    django.setup()
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
