"""What GitHub runs for this repository: pinned actions, few permissions, and no release without tests."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

GITHUB = Path(__file__).parents[2] / ".github"
FILES = sorted(GITHUB.glob("workflows/*.yml"))
USES = re.compile(r"uses: (\S+)(.*)")
MORE = {
    "codeql.yml": {"analyze": {"contents": "read", "security-events": "write"}},
    "docs.yml": {"deploy": {"pages": "write", "id-token": "write"}},
    "release.yml": {
        "publish": {"id-token": "write"},
        "release": {"contents": "write", "id-token": "write", "attestations": "write"},
    },
}
"""The jobs that may do more than read the repository."""

if not FILES:
    pytest.skip("this is an sdist, which has no workflows", allow_module_level=True)


def jobs(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((GITHUB / "workflows" / name).read_text())["jobs"]
    return found


def needed(all_jobs: dict[str, Any], name: str) -> set[str]:
    """The jobs that must succeed before this one."""
    needs = all_jobs[name].get("needs", [])
    direct = {needs} if isinstance(needs, str) else set(needs)
    return direct.union(*(needed(all_jobs, one) for one in direct))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_actions_are_pinned_by_commit_and_name_their_version(file):
    found = USES.findall(file.read_text())
    assert found
    for action, comment in found:
        local = action.startswith("./")
        assert local or (re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action) and re.fullmatch(r"  # v\d+\.\d+\.\d+", comment))


def test_one_action_has_one_version():
    actions = {action for file in FILES for action, _ in USES.findall(file.read_text())}
    assert len(actions) == len({action.partition("@")[0] for action in actions})


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_jobs_may_read_the_repository_and_only_some_may_do_more(file):
    workflow = yaml.safe_load(file.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    more = {name: job["permissions"] for name, job in workflow["jobs"].items() if "permissions" in job}
    assert more == MORE.get(file.name, {})
    steps = [step for job in workflow["jobs"].values() for step in job.get("steps", [])]
    checkouts = [step for step in steps if step.get("uses", "").startswith("actions/checkout@")]
    assert checkouts
    assert not any(step["with"]["persist-credentials"] for step in checkouts)


def test_nothing_is_published_before_all_of_ci_has_passed():
    release = jobs("release.yml")
    assert needed(release, "publish") == {"test", "build"}
    assert needed(release, "release") == {"test", "build", "publish"}
    assert release["test"]["uses"] == "./.github/workflows/ci.yml"
    assert "workflow_call" in yaml.safe_load((GITHUB / "workflows" / "ci.yml").read_text())[True]  # YAML reads "on" so


def test_publishing_needs_no_token_and_runs_nothing_else():
    steps = jobs("release.yml")["publish"]["steps"]
    assert [step["uses"].partition("@")[0] for step in steps] == [
        "actions/download-artifact",
        "pypa/gh-action-pypi-publish",
    ]
    assert "secrets." not in "".join(file.read_text() for file in FILES)


def test_the_release_on_github_has_its_notes_and_every_file():
    build, release = jobs("release.yml")["build"]["steps"], jobs("release.yml")["release"]["steps"]
    runs = "\n".join(step.get("run", "") for step in build)
    assert 'docs/release_notes.py "$GITHUB_REF_NAME" >build/notes.md' in runs
    assert "make sbom" in runs
    assert release[-1]["run"].endswith("--notes-file build/notes.md dist/* build/sbom.cdx.json\n")
    attested = [step["with"] for step in release if step.get("uses", "").startswith("actions/attest@")]
    assert attested == [{"subject-path": "dist/*"}, {"subject-path": "dist/*", "sbom-path": "build/sbom.cdx.json"}]


def test_zizmor_finds_no_weakness():
    zizmor = [Path(sys.executable).with_name("zizmor"), "--offline", "--quiet", "--min-severity", "medium", GITHUB]
    if not zizmor[0].exists():
        pytest.skip("zizmor is installed where the package is developed")
    found = subprocess.run(zizmor, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


def test_dependabot_watches_actions_and_every_list_of_packages():
    updates = yaml.safe_load((GITHUB / "dependabot.yml").read_text())["updates"]
    directories = {update["package-ecosystem"]: update.get("directories") for update in updates}
    lists = [path for path in GITHUB.parent.rglob("requirements*.txt") if ".venv" not in path.parts]
    assert set(directories) == {"github-actions", "pip"}
    assert {f"/{path.parent.relative_to(GITHUB.parent)}".replace("/.", "/") for path in lists} == set(
        directories["pip"]
    )
