"""What a folder contains and no backup holds survives a restore in place, or the restore is refused."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import struct
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backups.engine.errors import RestoreUndone
from backups.engine.left_out import MOST_LEFT_OUT
from backups.engine.repository.folder import Repository, initialise
from backups.engine.restore.commands import Commands
from backups.engine.restore.in_place import restore_in_place
from backups.engine.restore.to_folder import restore_to
from backups.engine.runtime import folders
from backups.engine.types import Backup, Source, SourceKind
from tests.engine.test_folders import nest
from tests.restore.stores import back_up, clean_environment, context, tree_of

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="this machine runs the tests without root, and only root can do this")


class Scene:
    def __init__(self, folder: Path) -> None:
        self.elsewhere = folder / "elsewhere"
        self.elsewhere.mkdir()
        (self.elsewhere / "big").write_text("big")
        self.live = folder / "live/papers"
        (self.live / "deep").mkdir(parents=True)
        (self.live / "deep/one").write_text("one")
        (self.live / "tool").write_text("tool")
        self.repository: Repository = initialise(folder / "repository", datetime.now(UTC))
        self.sources = (Source(kind=SourceKind.FILES, name="papers", path=self.live),)

    def back_up(self, **more: object) -> Backup:
        return back_up(self.repository, self.sources, **more)  # type: ignore[arg-type]

    def restore(self, backup: Backup, **more: object) -> None:
        restore_in_place(self.repository, backup, self.sources, context(), **more)  # type: ignore[arg-type]
        assert [path.name for path in self.live.parent.iterdir()] == ["papers"]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_links_pipes_and_sockets_are_carried_over_there_and_back(scene: Scene) -> None:
    before = scene.back_up()
    (scene.live / "deep/one").write_text("two")
    (scene.live / "deep/archive").symlink_to(scene.elsewhere)
    (scene.live / "new/inner").mkdir(parents=True)
    (scene.live / "new/inner").chmod(0o751)
    (scene.live / "new/inner/out").symlink_to("/etc")
    os.mkfifo(scene.live / "pipe", 0o640)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(scene.live / "socket"))
        inode = (scene.live / "socket").lstat().st_ino
        scene.restore(before)
    assert (scene.live / "deep/one").read_text() == "one"
    assert (scene.live / "deep/archive").readlink() == scene.elsewhere and (scene.elsewhere / "big").exists()
    assert (scene.live / "new/inner/out").is_symlink()
    assert stat.S_IMODE((scene.live / "new/inner").stat().st_mode) == 0o751
    assert (scene.live / "pipe").is_fifo() and stat.S_IMODE((scene.live / "pipe").lstat().st_mode) == 0o640
    assert (scene.live / "socket").lstat().st_ino == inode
    safety = next(item for item in scene.repository.backups("default") if item.manifest.safety)
    scene.restore(safety)
    assert (scene.live / "deep/one").read_text() == "two" and (scene.live / "deep/archive").is_symlink()
    assert (scene.live / "pipe").is_fifo()


def test_where_the_backup_has_something_of_that_name_both_remain(scene: Scene) -> None:
    before = scene.back_up()
    (scene.live / "tool").unlink()
    (scene.live / "tool").symlink_to(scene.elsewhere / "big")
    scene.restore(before)
    assert (scene.live / "tool").read_text() == "tool"
    (kept,) = scene.live.glob("tool.before-*")
    assert kept.readlink() == scene.elsewhere / "big"


MANY = MOST_LEFT_OUT + 5


@pytest.mark.slow
def test_of_more_than_can_be_listed_everything_that_no_backup_holds_is_kept(scene: Scene) -> None:
    """Counting by folder, as the manifest does, must neither lose a link nor keep a file of later."""
    links = scene.live / "links"
    links.mkdir()
    for number in range(MANY):
        (links / f"{number}").symlink_to("/etc")
        (scene.live / f"deep/{number}").write_text("old")
    before = scene.back_up()
    (links / "evil.conf").write_text("later")
    (links / "0").unlink()
    (links / "0").write_text("a file of later in place of a link of then")
    for number in range(MANY):
        (scene.live / f"deep/{number}").unlink()
        (scene.live / f"deep/{number}").symlink_to("/usr")
    scene.restore(before)
    assert {path.name for path in links.iterdir()} == {f"{number}" for number in range(1, MANY)}
    assert all((links / f"{number}").is_symlink() for number in range(1, MANY))
    assert {(scene.live / f"deep/{number}").read_text() for number in range(MANY)} == {"old"}
    kept = [*(scene.live / "deep").glob("*.before-*")]
    assert len(kept) == MANY and all(path.readlink() == Path("/usr") for path in kept)
    safety = next(item for item in scene.repository.backups("default") if item.manifest.safety)
    restore_to(scene.repository, safety, scene.elsewhere / "back", context())
    assert (scene.elsewhere / "back/files/papers/links/evil.conf").read_text() == "later"


def test_what_lies_deeper_than_any_path_is_kept(scene: Scene) -> None:
    before = scene.back_up()
    nest(scene.live / "deep", 17, "x" * 252)
    (scene.live / "tool").write_text("changed")
    path = "deep/" + "/".join(["x" * 252] * 17)
    assert len(path) > 4096
    scene.restore(before)
    assert (scene.live / "tool").read_text() == "tool"
    with folders.opened(scene.live) as root, folders.opened(path, root) as folder:
        assert os.listdir(folder) == ["file"]


def test_what_is_in_a_folder_where_the_backup_has_a_file_or_a_link(scene: Scene) -> None:
    (scene.live / "later").symlink_to("deep")
    (scene.live / "deep").chmod(0o555)
    before = scene.back_up()
    for name in ("tool", "later"):
        (scene.live / name).unlink()
        (scene.live / name).mkdir()
        (scene.live / name / ("n" * 255)).symlink_to("/etc")
    (scene.live / "deep").chmod(0o755)
    (scene.live / "deep/out").symlink_to("/etc")
    scene.restore(before)
    assert (scene.live / "tool").read_text() == "tool" and (scene.live / "later").readlink() == Path("deep")
    for name in ("tool", "later"):
        (kept,) = scene.live.glob(f"{name}.before-*")
        assert (kept / ("n" * 255)).is_symlink()
    assert {path.name for path in (scene.live / "deep").iterdir()} == {"one", "out"}
    assert stat.S_IMODE((scene.live / "deep").stat().st_mode) == 0o555


def test_excluded_files_are_kept_and_the_rest_is_the_backups(scene: Scene) -> None:
    (scene.live / "cache").mkdir()
    (scene.live / "cache/a").write_text("a")
    before = scene.back_up(exclude=("cache", "*.tmp"))
    times = tree_of(scene.live)["deep"]
    (scene.live / "cache/b").write_text("b")
    (scene.live / "deep/x.tmp").write_text("x")
    (scene.live / "later").write_text("later")
    scene.restore(before)
    kept = {path for path in tree_of(scene.live) if path not in ("deep", "deep/one", "tool")}
    assert kept == {"cache", "cache/a", "cache/b", "deep/x.tmp"}
    assert tree_of(scene.live)["deep"] == times


def test_a_restore_that_is_rolled_back_leaves_everything_as_it_was(scene: Scene) -> None:
    before = scene.back_up()
    (scene.live / "archive").symlink_to(scene.elsewhere)
    now = tree_of(scene.live)
    with pytest.raises(RestoreUndone):
        scene.restore(before, commands=Commands(check="false"))
    assert tree_of(scene.live) == now


def test_setuid_setgid_and_sticky_bits(scene: Scene) -> None:
    (scene.live / "tool").chmod(0o4755)
    (scene.live / "deep").chmod(0o3775)
    (scene.live / "gone").write_text("gone")
    (scene.live / "gone").chmod(0o6755)
    before = scene.back_up()
    (scene.live / "tool").write_text("changed")
    (scene.live / "tool").chmod(0o4755)
    (scene.live / "gone").unlink()
    scene.restore(before)
    modes = {name: stat.S_IMODE((scene.live / name).stat().st_mode) for name in ("tool", "deep", "gone")}
    assert modes == {"tool": 0o4755, "deep": 0o3775, "gone": 0o755}, "a file that is gone may have been another user's"


@pytest.mark.parametrize("name", ["user.colour", "system.posix_acl_access"])
def test_attributes_of_the_live_files_are_kept_and_a_backup_says_that_it_has_none(scene: Scene, name: str) -> None:
    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, mode, who)
        for tag, mode, who in [(1, 6, 2**32 - 1), (2, 4, 1234), (4, 4, 2**32 - 1), (16, 4, 2**32 - 1), (32, 0, 2**32 - 1)]
    )
    value = acl if name.startswith("system") else b"red"
    try:
        for path in (scene.live / "deep", scene.live / "deep/one"):
            os.setxattr(path, name, value)
    except OSError:
        pytest.skip("this machine's file system has no such attributes")
    (scene.live / "deep/one").chmod(0o440)
    mode = (scene.live / "deep/one").stat().st_mode
    before = scene.back_up()
    assert any("2 have extended attributes" in line for line in before.manifest.log)
    (scene.live / "deep/one").unlink()
    (scene.live / "deep/one").write_text("two")
    os.setxattr(scene.live / "deep/one", name, value)
    scene.restore(before)
    assert (scene.live / "deep/one").read_text() == "one" and (scene.live / "deep/one").stat().st_mode == mode
    for path in (scene.live / "deep", scene.live / "deep/one"):
        kept = os.getxattr(path, name)
        assert kept == value or (name.startswith("system") and struct.pack("<HHI", 2, 4, 1234) in kept)


@as_root
def test_owners_within_a_folder_are_kept(scene: Scene) -> None:
    os.chown(scene.live, 1234, 1234)
    os.chown(scene.live / "deep/one", 65534, 65534)
    before = scene.back_up()
    (scene.live / "deep/one").write_text("two")
    (scene.live / "tool").unlink()
    scene.restore(before)
    assert (scene.live / "deep/one").stat().st_uid == 65534 and (scene.live / "tool").stat().st_uid == 1234


@as_root
def test_owners_at_the_end_of_a_path_too_long_for_a_system_call(scene: Scene) -> None:
    """The longest path that a backup holds is one below the folder."""
    nest(scene.live, 16, "x" * 252)
    path = "/".join(["x" * 252] * 16)

    def owner() -> int:
        with folders.opened(scene.live) as root, folders.opened(path, root) as folder:
            return os.stat("file", dir_fd=folder).st_uid

    with folders.opened(scene.live) as root, folders.opened(path, root) as folder:
        os.chown("file", 65534, 65534, dir_fd=folder)
    assert len(f"{scene.live}/{path}/file") > 4096
    before = scene.back_up()
    assert not before.manifest.incomplete
    (scene.live / "tool").write_text("changed")
    scene.restore(before)
    assert owner() == 65534 and (scene.live / "tool").read_text() == "tool"


ORDINARY = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
"""Before a command: modes of files apply to it, also if root runs the tests."""


@pytest.mark.slow
@pytest.mark.skipif(bool(ORDINARY) and shutil.which("setpriv") is None, reason="setpriv is missing on this machine")
def test_what_cannot_be_read_is_kept_or_the_restore_is_refused(scene: Scene) -> None:
    scene.back_up()
    command = [*ORDINARY, sys.executable, "-m", "backups.engine", "restore", "latest", "--in-place", "--yes"]
    command += [f"--files=papers={scene.live}", f"--repo={scene.repository.folder}", "--progress=none"]

    def restore() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=clean_environment(), capture_output=True, text=True, check=False)

    (scene.live / "tool").write_text("secret")
    (scene.live / "tool").chmod(0)
    (scene.live / "new").write_text("new")
    (scene.live / "new").chmod(0)
    done = restore()
    assert done.returncode == 0, done.stderr
    (kept,) = scene.live.glob("tool.before-*")
    assert (scene.live / "tool").read_text() == "tool"
    for path, content in ((kept, "secret"), (scene.live / "new", "new")):
        assert stat.S_IMODE(path.stat().st_mode) == 0
        path.chmod(0o600)
        assert path.read_text() == content
    (scene.live / "closed").mkdir()
    (scene.live / "closed/inner").write_text("inner")
    (scene.live / "closed").chmod(0)
    done = restore()
    assert done.returncode == 1 and "closed is in no backup" in done.stderr
    (scene.live / "closed").chmod(0o700)
    assert (scene.live / "closed/inner").read_text() == "inner"


MOUNTED = """
import subprocess, sys
from pathlib import Path
from backups.engine.cli import main
live, repository = sys.argv[1:]
mount = {"tmpfs": ["-t", "tmpfs", "none"], "bind": ["--bind", sys.argv[1] + "/../../elsewhere"]}
for how, arguments in mount.items():
    place = Path(live, "deep", "mou nt")
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", *arguments, str(place)], check=True)
    (place / "data").write_text("mounted")
    code = main(["restore", "latest", "--in-place", "--yes", f"--files=papers={live}", f"--repo={repository}"])
    print(how, code, (place / "data").read_text(), flush=True)
    subprocess.run(["umount", str(place)], check=True)
"""


@as_root
@pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare is missing on this machine")
def test_a_folder_with_a_disk_mounted_in_it_is_refused(scene: Scene) -> None:
    scene.back_up()
    command = ["unshare", "--mount", sys.executable, "-c", MOUNTED, str(scene.live), str(scene.repository.folder)]
    done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, check=False)
    if "permission denied" in done.stderr.lower():
        pytest.skip("this machine allows no mounts")
    assert done.stdout.splitlines() == ["tmpfs 1 mounted", "bind 1 mounted"], done.stderr
    assert "is mounted on" in done.stderr and (scene.elsewhere / "data").read_text() == "mounted"
