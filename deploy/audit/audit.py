"""Looks at what we depend on and at what we wrote, with the tools of others; `make audit` runs it.

    python deploy/audit/audit.py --environment .venv --tools .venv-audit [--offline-ok] [--out audit]

Vulnerabilities (pip-audit), licences (pip-licenses against policy.toml), a bill of materials (CycloneDX), secrets in
the tree (detect-secrets against a baseline) and risky code (bandit). Ends with 1 on any finding, and with 3 when the
index of vulnerabilities could not be asked, unless --offline-ok says that this may be.
"""

import argparse
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PRODUCT = ("api", "cli", "db", "dialects", "migrations", "models", "scoring", "training", "workers", "deploy")
# What is generated, foreign, or data; everything else that git would take is looked at.
NO_SECRETS_IN = r"^(models/[^/]+/|deploy/audit/secrets\.json$)"
FINDING, OFFLINE = 1, 3
_UNREACHABLE = re.compile(
    r"ConnectionError|ConnectTimeout|ReadTimeout|Max retries exceeded|ServiceError|Failed to establish|NameResolution"
)


@dataclass(frozen=True)
class Verdict:
    """What one look found: nothing, or a line for each finding."""

    what: str
    findings: tuple[str, ...] = ()
    note: str = ""
    is_unknown: bool = False


class Audit:
    def __init__(self, environment: Path, tools: Path, out: Path, today: date) -> None:
        self.environment, self.tools, self.out, self.today = environment, tools, out, today
        self.policy = tomllib.loads((HERE / "policy.toml").read_text(encoding="utf-8"))

    def run(self) -> list[Verdict]:
        self.out.mkdir(exist_ok=True)
        return [self.vulnerabilities(), self.licences(), self.materials(), self.secrets(), self.code()]

    def vulnerabilities(self) -> Verdict:
        what = "known vulnerabilities"
        waived, overdue = waivers(self.policy.get("vulnerabilities", []), self.today)
        if overdue:
            return Verdict(what, tuple(f"the waiver of {name} is over; fix it, or say why not" for name in overdue))
        done = self._tool(
            *("pip-audit", "--path", str(self._packages()), "--format", "json", "--progress-spinner", "off"),
            *(word for name in waived for word in ("--ignore-vuln", name)),
        )
        if not done.stdout.strip():
            reason = (done.stderr.strip().splitlines() or ["nothing"])[-1]
            return Verdict(what, (f"pip-audit says: {reason}",), is_unknown=bool(_UNREACHABLE.search(done.stderr)))
        packages = json.loads(done.stdout)["dependencies"]
        (self.out / "vulnerabilities.json").write_text(done.stdout, encoding="utf-8")
        unknown = [package["name"] for package in packages if "skip_reason" in package and package["name"] != "bushel"]
        found = [
            f"{package['name']} {package['version']}: {each['id']}, mended in {each['fix_versions'] or 'none'}"
            for package in packages
            for each in package.get("vulns", [])
        ]
        note = f"{len(packages)} packages, {len(waived)} waivers"
        if unknown and not found:
            # pip-audit ends well when the index knows none of them, as a mirror without PyPI's JSON interface does.
            told = f"the index says nothing about {len(unknown)} packages: {', '.join(unknown[:5])}, …"
            return Verdict(what, (told,), note, is_unknown=True)
        return Verdict(what, tuple(found), note)

    def licences(self) -> Verdict:
        done = self._tool(
            *("pip-licenses", "--python", str(self.environment / "bin/python"), "--from", "mixed", "--with-urls"),
            *("--format", "json"),
        )
        packages = json.loads(done.stdout)
        (self.out / "licences.json").write_text(done.stdout, encoding="utf-8")
        rules = self.policy["licences"]
        found = [
            f"{package['Name']} {package['Version']}: {package['License']}"
            for package in packages
            if package["Name"] not in rules["exceptions"] and not is_allowed(package["License"], rules["allowed"])
        ]
        return Verdict("licences", tuple(found), f"{len(packages)} packages, {len(rules['exceptions'])} exceptions")

    def materials(self) -> Verdict:
        path = self.out / "sbom.cdx.json"
        done = self._tool(
            *(
                "cyclonedx-py",
                "environment",
                str(self.environment / "bin/python"),
                "--pyproject",
                str(ROOT / "pyproject.toml"),
            ),
            *("--output-reproducible", "--output-format", "JSON", "--output-file", str(path)),
        )
        if done.returncode != 0:
            return Verdict("bill of materials", (done.stderr.strip()[-500:],))
        return Verdict(
            "bill of materials", (), f"{len(json.loads(path.read_text())['components'])} components in {path}"
        )

    def secrets(self) -> Verdict:
        files = self._tree()
        done = self._tool("detect-secrets-hook", "--baseline", str(HERE / "secrets.json"), "--json", *files)
        found = [] if done.returncode == 0 else secret_lines(done.stdout) or [done.stderr.strip()[-500:]]
        return Verdict("secrets in the tree", tuple(found), f"{len(files)} files")

    def accept_secrets(self) -> int:
        """Take what looks like a secret now for none, after somebody has looked; how many there are."""
        done = self._tool("detect-secrets", "scan", *self._tree())
        found = json.loads(done.stdout)
        # Without its time, which would change the file at every look.
        found.pop("generated_at", None)
        (HERE / "secrets.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        return sum(len(each) for each in found["results"].values())

    def _tree(self) -> list[str]:
        """What git has, or would take."""
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
        return [name for name in names if name and not re.search(NO_SECRETS_IN, name) and (ROOT / name).is_file()]

    def code(self) -> Verdict:
        done = self._tool(
            *("bandit", "--quiet", "--recursive", *PRODUCT, "--format", "json"),
            *("--skip", ",".join(self.policy["bandit"]["off"]), "--exclude", "*/recipe.py"),
        )
        report = json.loads(done.stdout)
        (self.out / "bandit.json").write_text(done.stdout, encoding="utf-8")
        allowed = {(rule["test"], file) for rule in self.policy["bandit"]["allowed"] for file in rule["files"]}
        found = [
            f"{each['filename']}:{each['line_number']}: {each['test_id']} {each['issue_text']}"
            for each in report["results"]
            if (each["test_id"], each["filename"].removeprefix("./")) not in allowed
        ]
        lines = report["metrics"]["_totals"]["loc"]
        return Verdict("risky code", tuple(found + [str(error) for error in report["errors"]]), f"{lines:,} lines")

    def _tool(self, name: str, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([str(self.tools / "bin" / name), *words], cwd=ROOT, capture_output=True, text=True)

    def _packages(self) -> Path:
        (found,) = (self.environment / "lib").glob("python3*/site-packages")
        return found


def waivers(listed: Sequence[dict[str, Any]], today: date) -> tuple[list[str], list[str]]:
    """Ids that are waived today, and those whose time is over."""
    return (
        [each["id"] for each in listed if each["until"] > today],
        [each["id"] for each in listed if each["until"] <= today],
    )


def is_allowed(licence: str, allowed: Sequence[str]) -> bool:
    """Whether we may use something under `licence`, an SPDX expression or the names a package gives, by semicolons.

    >>> is_allowed("MIT AND GPL-3.0", ["MIT"]), is_allowed("MIT OR GPL-3.0", ["MIT"]), is_allowed("UNKNOWN", ["MIT"])
    (False, True, False)
    """
    choices = re.split(r"\s+OR\s+", licence)
    parts = [re.split(r"\s+AND\s+|\s+WITH\s+|; ", one) for one in choices]
    return any(all({part, part.strip("() ")} & set(allowed) for part in some) for some in parts)


def secret_lines(report: str) -> list[str]:
    """`file:line: kind` for each; never the secret itself."""
    try:
        results = json.loads(report)["results"]
    except (ValueError, KeyError):
        return []
    return [f"{file}:{each['line_number']}: {each['type']}" for file, found in results.items() for each in found]


def main(words: Sequence[str]) -> int:
    options = argparse.ArgumentParser(description="Look for known faults in what we depend on and in what we wrote.")
    options.add_argument("--environment", type=Path, required=True, help="the virtual environment to look at")
    options.add_argument("--tools", type=Path, required=True, help="the virtual environment with the tools")
    options.add_argument("--out", type=Path, default=Path("audit"), help="folder for the reports")
    options.add_argument("--offline-ok", action="store_true", help="let pass what needs the network and has none")
    options.add_argument("--accept-secrets", action="store_true", help="write the baseline anew; look at its diff")
    chosen = options.parse_args(words)
    places = (chosen.environment.absolute(), chosen.tools.absolute(), chosen.out.absolute())
    audit = Audit(*places, datetime.now(UTC).date())
    if chosen.accept_secrets:
        print(f"{audit.accept_secrets()} places look like secrets and are taken for none")
        return 0
    verdicts = audit.run()
    for verdict in verdicts:
        said = "NOT ASKED" if verdict.is_unknown else f"{len(verdict.findings)} findings" if verdict.findings else "ok"
        print(f"{verdict.what:24} {said:12} {verdict.note}")
        for finding in verdict.findings:
            print(f"    {finding}")
    if any(verdict.findings and not verdict.is_unknown for verdict in verdicts):
        return FINDING
    if any(verdict.is_unknown for verdict in verdicts):
        print("THE INDEX OF VULNERABILITIES COULD NOT BE ASKED: whether any are known is not known.", file=sys.stderr)
        return 0 if chosen.offline_ok else OFFLINE
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
