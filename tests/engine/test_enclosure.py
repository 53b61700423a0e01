"""A folder that others may write to: what they can put under a name leads nowhere, blocks nothing and fills no memory."""

import os
import socket
import stat
import tracemalloc
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from backups.engine.runtime.enclosure import Enclosure, NotAllowed


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder that must stay as it is."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_text("secret")
    return folder


@pytest.fixture
def content(tmp_path: Path) -> Enclosure:
    (tmp_path / "repository").mkdir()
    return Enclosure(tmp_path / "repository")


def link_to(target: str) -> Callable[[Path, Path], None]:
    return lambda place, outside: place.symlink_to(outside / target)


def socket_at(place: Path, _: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as listening:
        listening.bind(str(place))


PLANTED: dict[str, Callable[[Path, Path], None]] = {
    "a symbolic link": link_to("secret"),
    "a folder": lambda place, _: place.mkdir(),
    "a named pipe": lambda place, _: os.mkfifo(place),
    "a socket": socket_at,
}


@pytest.mark.parametrize("kind", PLANTED)
def test_only_regular_files_are_opened(content: Enclosure, outside: Path, kind: str) -> None:
    PLANTED[kind](content.root / "planted", outside)
    for attempt in (content.open_file, content.open_lock, lambda path: content.read(path, 100)):
        with pytest.raises(NotAllowed, match=f"planted is {kind}$"):
            attempt("planted")


def test_a_device_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(NotAllowed, match="zero is a device"):
        Enclosure(Path("/dev")).open_file("zero")


@pytest.mark.parametrize("target", ["", "missing"])
def test_no_folder_on_the_way_may_be_a_link(content: Enclosure, outside: Path, target: str) -> None:
    (content.root / "link").symlink_to(outside / target)
    tries: list[Callable[[], object]] = [
        lambda: content.read("link/secret", 100),
        lambda: content.inside("link").names(),
        lambda: content.status("link/secret"),
        lambda: content.write_file("link/new", b""),
        lambda: content.unlink("link/secret"),
        lambda: content.remove_tree("link/secret"),
        lambda: content.make_folder("link/new"),
        lambda: content.open_lock("link/lock"),
        lambda: content.publish("link/secret", "here"),
    ]
    for attempt in tries:
        with pytest.raises(NotAllowed, match="is a symbolic link"):
            attempt()
    assert not content.is_folder("link")
    assert [path.name for path in outside.iterdir()] == ["secret"]


def test_writing_and_removing_replace_a_link_not_what_it_names(content: Enclosure, outside: Path) -> None:
    for name in ("written", "unlinked", "removed"):
        (content.root / name).symlink_to(outside / "secret")
    (content.root / "folder").symlink_to(outside)
    content.write_file("written", b"new")
    content.unlink("unlinked")
    content.remove_tree("removed")
    content.remove_tree("folder")
    assert content.read("written", 3) == b"new" and content.names() == ["written"]
    assert stat.S_IMODE((content.root / "written").stat().st_mode) == 0o600
    assert (outside / "secret").read_text() == "secret"


def test_a_lock_that_is_also_another_file_is_not_written_to(content: Enclosure, outside: Path) -> None:
    (content.root / "writer").hardlink_to(outside / "secret")
    with pytest.raises(NotAllowed, match="has other names"):
        content.open_lock("writer")


def test_a_sparse_file_takes_no_memory(content: Enclosure) -> None:
    with (content.root / "large").open("wb") as file:
        file.truncate(1 << 40)
    tracemalloc.start()
    try:
        with pytest.raises(NotAllowed, match="has 1,099,511,627,776 bytes; at most 1,000 are read"):
            content.read("large", 1_000)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_the_entries_of_a_folder_are_counted_while_they_are_read(content: Enclosure) -> None:
    for number in range(11):
        (content.root / f"{number:02}").touch()
    assert len(content.names(most=11)) == 11
    with pytest.raises(NotAllowed, match="has more than 10 entries"):
        content.names(most=10)


@pytest.mark.parametrize("path", ["../outside/secret", "/etc/passwd", "a//b", "./a"])
def test_a_path_cannot_leave_the_folder(content: Enclosure, path: str) -> None:
    for attempt in (content.open_file, content.make_folder, content.remove_tree, content.status):
        with pytest.raises(ValueError, match="is not a path within a folder"):
            attempt(path)


def test_publishing_moves_a_folder_and_removing_takes_what_its_owner_locked(content: Enclosure) -> None:
    content.make_folder("staging/one")
    content.write_file("staging/one/file", b"1")
    content.publish("staging/one", "backups/default/one")
    assert content.names("staging") == [] and content.read("backups/default/one/file", 1) == b"1"
    content.path("backups/default/one").chmod(0o500)
    content.remove_tree("backups/default")
    content.remove_tree("backups/default")
    assert content.names("backups") == []
