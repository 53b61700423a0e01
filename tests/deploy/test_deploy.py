"""The files in deploy/, checked with the programs that read them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.docs.pages import blocks

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
METRIC = re.compile(r"\brefbackup_\w+")


def tool(name: str) -> str:
    """A program that CI has; elsewhere the test is skipped without it."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed; .ci/run installs it")
    return found


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60, check=False)


def documented() -> set[str]:
    return set(re.findall(r"^\| `(refbackup_\w+)`", (ROOT / "docs/reference/metrics.md").read_text(), re.MULTILINE))


def test_systemd_accepts_the_units(tmp_path):
    analyze = tool("systemd-analyze")
    for unit in (DEPLOY / "systemd").iterdir():
        # The programs are where an installation puts them, and not on this machine
        text = re.sub(r"^(Exec\w+=)\S+", rf"\1{sys.executable}", unit.read_text(), flags=re.MULTILINE)
        (tmp_path / unit.name).write_text(text)
    done = run(analyze, "verify", "--man=no", *sorted(tmp_path.iterdir()))
    assert done.returncode == 0 and not done.stderr.strip(), done.stderr
    broken = tmp_path / "refserver.service"
    broken.write_text(broken.read_text().replace("KillMode=mixed", "KillMode=all-of-them"))
    assert "all-of-them" in run(analyze, "verify", "--man=no", broken).stderr


def test_systemd_accepts_the_documented_timers(tmp_path):
    analyze = tool("systemd-analyze")
    page = ROOT / "docs/how-to/run-unattended.md"
    units = {block.marker.removeprefix("file: "): block.text for block in blocks(page) if block.language == "ini"}
    assert len(units) == 3
    for name, text in units.items():
        runnable = re.sub(r"^(ExecStart=)\S+", rf"\1{sys.executable}", text, flags=re.MULTILINE)
        (tmp_path / name.replace("@.", "@full.")).write_text(runnable)
        (tmp_path / name.replace("@.", "@incremental.")).write_text(runnable)
    done = run(analyze, "verify", "--man=no", *sorted(tmp_path.iterdir()))
    assert done.returncode == 0 and not done.stderr.strip(), done.stderr


def test_a_stop_signals_only_the_supervisor_and_waits_for_jobs():
    unit = (DEPLOY / "systemd" / "refserver.service").read_text()
    assert "KillMode=mixed" in unit and "TimeoutStopSec=15min" in unit
    assert (
        yaml.safe_load((DEPLOY / "docker" / "compose.yaml").read_text())["services"]["refserver"]["stop_grace_period"] == "15m"
    )


def test_nginx_accepts_its_configuration(tmp_path):
    nginx = tool("nginx")
    key, certificate = tmp_path / "privkey.pem", tmp_path / "fullchain.pem"
    made = run(
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=refs.example.org"),
        *("-keyout", key, "-out", certificate),
    )
    assert made.returncode == 0, made.stderr
    proxy = tmp_path / "refserver-proxy.conf"
    proxy.write_text((DEPLOY / "nginx" / "refserver-proxy.conf").read_text())
    site = (DEPLOY / "nginx" / "refserver.conf").read_text()
    site = site.replace("/etc/nginx/refserver-proxy.conf", str(proxy)).replace("/etc/ssl/refserver", str(tmp_path))
    site = site.replace("443", "18443").replace("listen 80", "listen 18080").replace("[::]:80", "[::]:18080")
    whole = tmp_path / "nginx.conf"
    whole.write_text(f"pid {tmp_path}/pid; error_log stderr; events {{}} http {{ access_log off;\n{site}\n}}")
    done = run(nginx, "-t", "-c", whole, "-p", tmp_path, "-g", "daemon off;")
    assert done.returncode == 0, done.stderr


def test_prometheus_accepts_the_rules_and_they_fire():
    promtool = tool("promtool")
    monitoring = DEPLOY / "monitoring"
    for command in (
        (promtool, "check", "rules", monitoring / "refserver.rules.yaml"),
        (promtool, "check", "config", "--syntax-only", monitoring / "prometheus.yaml"),
        (promtool, "test", "rules", monitoring / "refserver.rules.test.yaml"),
    ):
        done = run(*command)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["refserver.rules.yaml", "grafana-dashboard.json"])
def test_rules_and_dashboard_name_metrics_that_exist(name):
    named = set(METRIC.findall((DEPLOY / "monitoring" / name).read_text()))
    assert named and named <= documented()


def test_the_dashboard_is_valid():
    board = json.loads((DEPLOY / "monitoring" / "grafana-dashboard.json").read_text())
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"]) == 12
    assert all(target["expr"] for panel in board["panels"] for target in panel["targets"])


def test_the_image_copies_and_runs_existing_files():
    text = (DEPLOY / "docker" / "Dockerfile").read_text()
    for source in re.findall(r"^COPY (\S+) ", text, re.MULTILINE):
        assert (ROOT / source).exists(), source
    start = re.search(r'"(deploy/docker/\S+)"\]$', text, re.MULTILINE)
    assert start and (ROOT / start[1]).stat().st_mode & 0o111
    compose = yaml.safe_load((DEPLOY / "docker" / "compose.yaml").read_text())
    build = compose["services"]["refserver"]["build"]
    assert (DEPLOY / "docker" / build["context"]).resolve() == ROOT and (ROOT / build["dockerfile"]).is_file()


def test_settings_in_deploy_exist():
    known = set(re.findall(r"\b(?:REFSERVER|BACKUP|CHROMA)_[A-Z_]+\b", (ROOT / ".env.example").read_text()))
    for file in DEPLOY.rglob("*"):
        if file.is_file():
            unknown = set(re.findall(r"\b(?:REFSERVER|BACKUP|CHROMA)_[A-Z_]+\b", file.read_text())) - known
            assert not unknown, f"{file.name}: {sorted(unknown)}"


def test_logrotate_accepts_its_file(tmp_path):
    logrotate = tool("logrotate")
    log = tmp_path / "refserver.log"
    log.write_text("a line\n")
    text = (DEPLOY / "logrotate" / "refserver").read_text()
    rules = tmp_path / "rules"
    rules.write_text(text.replace("/var/log/refserver/*.log", str(log)).replace("    su refserver refserver\n", ""))
    rules.chmod(0o600)
    done = run(logrotate, "--force", "--state", tmp_path / "state", rules)
    assert done.returncode == 0, done.stderr
    assert log.read_text() == "" and (tmp_path / "refserver.log.1").read_text() == "a line\n"


@pytest.mark.parametrize("unit", ["refserver.service", "refserver-check.service"])
def test_a_taken_over_service_reaches_little_of_the_machine(unit, tmp_path):
    analyze = tool("systemd-analyze")
    done = run(analyze, "security", "--offline=true", "--no-pager", "--threshold=20", DEPLOY / "systemd" / unit)
    assert done.returncode == 0, done.stdout + done.stderr
    open_to_all = tmp_path / unit
    open_to_all.write_text(
        (DEPLOY / "systemd" / unit).read_text().replace("CapabilityBoundingSet=\n", "").replace("Private", "X")
    )
    assert run(analyze, "security", "--offline=true", "--no-pager", "--threshold=20", open_to_all).returncode
