"""docs/security.md says what is true: each point of ASVS level 2 once, each file and test there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from gateway.services import ALL_SERVICES
from gateway.transcode import build_routes
from mesh.config import Settings
from services.auth.domain.password_rules import OUR_WORDS

ROOT = Path(__file__).resolve().parent.parent
DOC = (ROOT / "docs" / "security.md").read_text()
# The points of levels 1 and 2 in OWASP ASVS 5.0.0, by section.
POINTS = {
    "1.1": range(1, 3), "1.2": range(1, 10), "1.3": range(1, 12), "1.4": range(1, 4),
    "1.5": range(1, 3), "2.1": range(1, 4), "2.2": range(1, 4), "2.3": range(1, 5),
    "2.4": range(1, 2), "3.2": range(1, 3), "3.3": range(1, 5), "3.4": range(1, 7),
    "3.5": range(1, 6), "3.7": range(1, 3), "4.1": range(1, 4), "4.2": range(1, 2),
    "4.3": range(1, 3), "4.4": range(1, 5), "5.1": range(1, 2), "5.2": range(1, 4),
    "5.3": range(1, 3), "5.4": range(1, 4), "6.1": range(1, 4), "6.2": range(1, 13),
    "6.3": range(1, 5), "6.4": range(1, 5), "6.5": range(1, 6), "6.6": range(1, 4),
    "6.8": range(1, 5), "7.1": range(1, 4), "7.2": range(1, 5), "7.3": range(1, 3),
    "7.4": range(1, 6), "7.5": range(1, 3), "7.6": range(1, 3), "8.1": range(1, 3),
    "8.2": range(1, 4), "8.3": range(1, 2), "8.4": range(1, 2), "9.1": range(1, 4),
    "9.2": range(1, 5), "10.1": range(1, 3), "10.2": range(1, 3), "10.3": range(1, 5),
    "10.4": range(1, 12), "10.5": range(1, 6), "10.6": range(1, 3), "10.7": range(1, 4),
    "11.1": range(1, 3), "11.2": range(1, 4), "11.3": range(1, 4), "11.4": range(1, 5),
    "11.5": range(1, 2), "11.6": range(1, 2), "12.1": range(1, 4), "12.2": range(1, 3),
    "12.3": range(1, 5), "13.1": range(1, 2), "13.2": range(1, 6), "13.3": range(1, 3),
    "13.4": range(1, 6), "14.1": range(1, 3), "14.2": range(1, 5), "14.3": range(1, 4),
    "15.1": range(1, 4), "15.2": range(1, 4), "15.3": range(1, 8), "16.1": range(1, 2),
    "16.2": range(1, 6), "16.3": range(1, 5), "16.4": range(1, 4), "16.5": range(1, 4),
    "17.1": range(1, 2), "17.2": range(1, 5), "17.3": range(1, 3),
}  # fmt: skip
ROW = re.compile(
    r"^\| (\d+\.\d+\.\d+) \| ([^|]+) \| (met|n/a|not met) \| ([^|]+) \| ([^|]*) \|$", re.MULTILINE
)
ROWS = ROW.findall(DOC)
SOURCES = [
    path
    for folder in ("kernel", "mesh", "services", "gateway", "ops")
    for path in (ROOT / folder).rglob("*.py")
]
PAGE = [path for path in (ROOT / "web" / "src").rglob("*.ts*") if "gen" not in path.parts]
SECRETS = re.compile(r"password|secret|token|code|totp", re.IGNORECASE)


def test_every_point_of_level_2_is_there_once() -> None:
    wanted = [f"{section}.{number}" for section, numbers in POINTS.items() for number in numbers]
    assert [row[0] for row in ROWS] == wanted
    assert len(wanted) == 253
    assert f"{len(wanted)} points" in DOC
    assert len(re.findall(r"^\| \d+\.\d+\.\d+ ", DOC, re.MULTILINE)) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_point_that_is_met_is_shown_by_tests_that_exist(row: tuple[str, ...]) -> None:
    _, _, state, _, shown_by = row
    names = re.findall(r"`([^`]+)`", shown_by)
    assert bool(names) is (state == "met")
    for name in names:
        file, _, test = name.partition("::")
        assert re.search(rf"\bdef {test}\(", (ROOT / "tests" / file).read_text()), name


def test_every_file_that_is_named_is_there() -> None:
    named = set(re.findall(r"`((?:[\w.-]+/)+[\w.-]*\w|\w[\w-]*\.(?:yml|md))`", DOC))
    links = set(re.findall(r"\]\(([^)]+)\)", DOC))
    missing = [name for name in named if not (ROOT / name).exists()]
    missing += [link for link in links if not (ROOT / "docs" / link).exists()]
    assert [name for name in missing if not name.startswith("application/")] == []
    assert len(named) > 40


def test_every_setting_that_is_named_is_one() -> None:
    known = {f"TIDEBOOK_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"TIDEBOOK_[A-Z_]+", DOC)) <= known


def test_the_lifetimes_are_those_of_the_settings() -> None:
    said = {
        "access_token_seconds": (600, "10 min"),
        "refresh_token_seconds": (30 * 86_400, "30 days"),
        "session_max_days": (90, "90 days"),
        "otp_seconds": (600, "10 min"),
        "otp_max_attempts": (5, "5 tries"),
        "signin_max_failures": (10, "after 10"),
        "signin_lock_seconds": (900, "15 min"),
        "signing_key_days": (30, "30 days"),
    }
    for name, (value, text) in said.items():
        assert Settings.model_fields[name].default == value
        [line] = re.findall(rf"^\|.*TIDEBOOK_{name.upper()}`.*$", DOC, re.MULTILINE)
        assert text in line, name


def test_the_words_that_no_password_may_be_are_listed() -> None:
    listed = re.search(r"our own words\n?\s*\(([^)]+)\)", DOC)
    assert listed is not None
    assert set(re.split(r",\s+", listed[1])) == OUR_WORDS


def fields_of(message: Descriptor, seen: set[str] | None = None) -> Iterator[FieldDescriptor]:
    """All fields of a message, those of messages in it too."""
    seen = set() if seen is None else seen
    if message.full_name in seen:
        return
    seen.add(message.full_name)
    for field in message.fields:
        yield field
        if field.message_type is not None:
            yield from fields_of(field.message_type, seen)


def test_what_is_asked_with_get_changes_nothing() -> None:
    for route in build_routes(ALL_SERVICES):
        if route.http_method == "GET" and not route.server_streaming:
            options = route.descriptor.GetOptions()
            assert options.idempotency_level == options.NO_SIDE_EFFECTS, route.rpc_path


def test_no_secret_travels_in_a_url() -> None:
    for route in build_routes(ALL_SERVICES):
        if route.http_method in ("GET", "DELETE"):
            names = {field.name for field in fields_of(route.descriptor.input_type)}
            secret = {name for name in names if SECRETS.search(name)}
            # A place in a list; says nothing to anybody else.
            assert secret <= {"page_token"}, route.rpc_path


def test_no_request_names_an_address_to_call() -> None:
    for service in ALL_SERVICES:
        for method in service.methods:
            for field in fields_of(method.input_type):
                words = set(field.name.split("_"))
                assert not words & {"url", "uri", "host", "callback", "webhook"}, field.full_name


def found_in(paths: list[Path], pattern: str) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths if re.search(pattern, path.read_text())]


def test_no_code_runs_a_shell_or_evaluates_text() -> None:
    assert found_in(SOURCES, r"shell=True|os\.system\(|[^.\w](eval|exec)\(|\bpickle\b") == []


def test_no_weak_hash_is_used() -> None:
    # Nothing is protected by it: a list from elsewhere is sorted so.
    lookup = ["services/auth/breached_passwords.py"]
    assert found_in(SOURCES, r"\b(md5|sha1|MD5|SHA1)\b") == lookup
    assert re.findall(r"sha1\([^\n]*", (ROOT / lookup[0]).read_text()) == [
        "sha1(text, usedforsecurity=False).hexdigest().upper().encode()"
    ]


def test_secrets_come_from_the_systems_random_source() -> None:
    keepers = [*(ROOT / "services" / "auth").rglob("*.py"), ROOT / "gateway" / "sessions.py"]
    assert found_in(keepers, r"^\s*(import random|from random)|uuid") == []
    assert len(found_in(keepers, r"\bsecrets\.(token|randbelow)")) >= 5


def test_the_page_puts_no_text_in_as_html() -> None:
    scripts = [*PAGE, *(ROOT / "gateway" / "openapi" / "static").glob("*.js")]
    assert found_in(scripts, r"innerHTML|outerHTML|dangerouslySet|document\.write|\beval\(") == []


def test_the_page_stores_only_how_it_looks() -> None:
    assert found_in(PAGE, r"localStorage") == ["web/src/lib/page.ts"]
    assert found_in(PAGE, r"sessionStorage|indexedDB") == []


def test_password_fields_hide_what_is_typed_and_work_with_managers() -> None:
    assert found_in(PAGE, r"onPaste|autoComplete=\"off\"[^>]*type=\"password\"") == []
    for path in PAGE:
        text = path.read_text()
        for match in re.finditer(r"autoComplete=\"(current|new)-password\"", text):
            assert 'type="password"' in text[max(0, match.start() - 200) : match.end() + 200], path


def test_the_image_holds_no_history_and_no_data() -> None:
    first, *others = [
        line for line in (ROOT / ".dockerignore").read_text().split() if not line.startswith("#")
    ]
    assert "*" in [first, *others]
    assert not {"!.git", "!data", "!tests"} & set(others)


def test_every_library_is_pinned_by_hash() -> None:
    for name in ("run.txt", "dev.txt"):
        lines = (ROOT / "locks" / name).read_text().replace("\\\n", " ").splitlines()
        pinned = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
        assert pinned
        assert all("==" in line and "--hash=sha256:" in line for line in pinned)
