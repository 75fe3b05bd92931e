"""The shipped Prometheus configuration, checked by Prometheus' own tool."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

CONFIG = Path(__file__).resolve().parents[2] / "deploy" / "prometheus" / "prometheus.yml"


def test_promtool_accepts_the_scrape_configuration(
    tmp_path: Path, require_program: Callable[[str], str]
) -> None:
    shutil.copy(CONFIG, tmp_path)
    (tmp_path / "targets.json").write_text('[{"targets": ["127.0.0.1:9400"]}]')
    command = [require_program("promtool"), "check", "config", str(tmp_path / CONFIG.name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
