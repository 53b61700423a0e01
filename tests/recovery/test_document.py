"""DISASTER_RECOVERY.md, followed literally: each part on its own copy, in which its disaster has happened.

The parts run on a terminal, where the test types the backup's id that the screen shows, and as an ordinary user.
"""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Block, blocks
from tests.docs.test_commands import NEEDED, runnable, script
from tests.recovery.clone import Clone, copy_of
from tests.recovery.ordinary import give, ordinary, reason_to_skip

PAGE = ROOT / "DISASTER_RECOVERY.md"
HEADING = re.compile(r"^## (.+)$", re.MULTILINE)
PROMPT = "anything else to stop: "
SECONDS = 240.0


def parts() -> dict[str, list[Block]]:
    """The blocks to run of each part, by heading."""
    content = PAGE.read_text(encoding="utf-8")
    starts = [(content.count("\n", 0, found.start()) + 1, found[1]) for found in HEADING.finditer(content)]
    found: dict[str, list[Block]] = {title: [] for _, title in starts}
    for block in runnable(PAGE):
        found[max((line, title) for line, title in starts if line < block.line)[1]].append(block)
    return {title: part for title, part in found.items() if part}


PARTS = parts()


def follow(part: list[Block], clone: Clone) -> tuple[int | None, str]:
    """Run a part in *clone* and return its exit code and the screen's content."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        ordinary("bash", "-c", script(part)),
        cwd=clone.root,
        env=clone.environment(TERM="dumb"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as shell:
        os.close(theirs)
        said, answered = "", 0
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            if select.select([ours], [], [], 0.5)[0]:
                try:
                    said += os.read(ours, 65536).decode(errors="replace")
                except OSError:  # the other end is closed
                    break
            if said.count(PROMPT) > answered:
                answered += 1
                chosen = re.findall(r"^Backup +(\S+?),?\r?$", said, re.MULTILINE)[-1]
                os.write(ours, f"{chosen}\n".encode())
        else:
            shell.kill()
        os.close(ours)
        return shell.wait(20), said


@pytest.fixture(scope="module")
def followed(template: Clone, request: pytest.FixtureRequest) -> Iterator[dict[str, Future[tuple[int | None, str]]]]:
    """The selected parts, two at a time."""
    pool = ThreadPoolExecutor(2)
    asked = {item.callspec.params.get("title") for item in request.session.items if hasattr(item, "callspec")}

    def begin(title: str, part: list[Block]) -> tuple[int | None, str]:
        folder = Path(tempfile.mkdtemp())  # that of the tests may be closed to other users
        try:
            copied = copy_of(template, folder / "refserver")
            folder.chmod(0o755)
            give(folder)
            return follow(part, copied)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    yield {title: pool.submit(begin, title, part) for title, part in PARTS.items() if title in asked}
    pool.shutdown(cancel_futures=True)


@pytest.mark.slow
@pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip())
@pytest.mark.skipif(not all(map(shutil.which, NEEDED)), reason=f"needs {', '.join(NEEDED)}")
@pytest.mark.parametrize("title", PARTS)
def test_a_part_followed_literally_restores_the_data(title: str, followed: dict[str, Future[tuple[int | None, str]]]) -> None:
    code, said = followed[title].result()
    assert code == 0, f"“{title}” failed after its last line below:\n{said}"


def test_every_part_states_time_success_and_how_to_go_back() -> None:
    text = re.sub(r"<!--.*?-->", "", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    titles = HEADING.findall(text)
    for title, body in zip(titles, HEADING.split(text)[2::2], strict=True):
        assert "It worked when" in body, title
        if not title.startswith("The worst case"):
            assert "To go back" in body, title
            assert "Time" in body or title.startswith("When the script"), title


def test_every_block_is_run_or_changes_a_password() -> None:
    """All except the one that asks for a password, and those for keys that the sample does not have, which tests/encryption and
    tests/trust have."""
    shown = [block.text.strip() for block in blocks(PAGE) if block.language == "sh" and block.marker == ""]
    assert [text for text in shown if "ENCRYPTION_KEY" not in text and "SIGNING_KEY" not in text] == [
        ".venv/bin/python manage.py changepassword admin"
    ]
    assert len(shown) == 3


def test_every_symptom_links_to_a_part() -> None:
    content = PAGE.read_text(encoding="utf-8")
    linked = set(re.findall(r"^\|.*\| \[([^\]]+)\]\(#", content, re.MULTILINE))
    assert linked == set(HEADING.findall(content)[2:])


def test_the_first_page_is_five_lines_for_the_worst_case() -> None:
    [first] = [block for block in PARTS["The worst case: five lines"] if block.marker == "run"]
    assert len(first.text.strip().splitlines()) == 5
    assert Path(PAGE).read_text().index("```sh") < 600
