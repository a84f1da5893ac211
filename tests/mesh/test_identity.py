"""Certificates of the development authority."""

from __future__ import annotations

import concurrent.futures
import datetime as dt
import stat
from pathlib import Path

import pytest
from cryptography import x509

from kernel.reasons import Reason, Refused
from mesh import identity
from mesh.identity import (
    ALLOWED_CALLERS,
    Caller,
    CertificateAuthority,
    require,
    require_service,
    reset_caller,
    service_of_spiffe,
    set_caller,
)


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_a_certificate_names_its_service(tmp_path: Path) -> None:
    files = CertificateAuthority(tmp_path / "pki").issue("engine")
    certificate = load(files.certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    assert [service_of_spiffe(uri) for uri in uris] == ["engine"]
    certificate.verify_directly_issued_by(load(files.authority))
    left = certificate.not_valid_after_utc - dt.datetime.now(dt.UTC)
    assert 824 <= left.days <= 825


def test_nobody_else_may_read_the_keys(tmp_path: Path) -> None:
    CertificateAuthority(tmp_path / "pki").issue("engine")
    assert stat.S_IMODE((tmp_path / "pki").stat().st_mode) == 0o700
    for file in (tmp_path / "pki").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file.name


def test_a_second_start_uses_the_same_files(tmp_path: Path) -> None:
    first = CertificateAuthority(tmp_path).issue("engine").certificate.read_bytes()
    assert CertificateAuthority(tmp_path).issue("engine").certificate.read_bytes() == first


def test_a_certificate_about_to_expire_is_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = CertificateAuthority(tmp_path)
    monkeypatch.setattr(identity, "CERTIFICATE_DAYS", 29)
    old = load(authority.issue("engine").certificate)
    monkeypatch.undo()
    new = load(authority.issue("engine").certificate)
    assert new.serial_number != old.serial_number
    assert new.not_valid_after_utc > old.not_valid_after_utc


def test_a_new_authority_replaces_the_certificates_of_the_old_one(tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path)
    authority.issue("engine")
    (tmp_path / "ca.key").unlink()
    (tmp_path / "ca.crt").unlink()
    files = authority.issue("engine")
    load(files.certificate).verify_directly_issued_by(load(files.authority))


def test_services_that_start_at_once_share_one_authority(tmp_path: Path) -> None:
    services = ["auth", "engine", "marketdata", "settlement", "gateway"]
    with concurrent.futures.ThreadPoolExecutor(len(services)) as pool:
        issued = list(pool.map(lambda name: CertificateAuthority(tmp_path).issue(name), services))
    for files in issued:
        load(files.certificate).verify_directly_issued_by(load(files.authority))


def test_certificates_from_elsewhere_are_used_as_they_are(tmp_path: Path) -> None:
    files = CertificateAuthority(tmp_path).issue("engine")
    (tmp_path / "ca.key").unlink()
    before = files.certificate.read_bytes()
    assert CertificateAuthority(tmp_path).issue("engine").certificate.read_bytes() == before
    with pytest.raises(ValueError, match="not"):
        CertificateAuthority(tmp_path).issue("gateway")


@pytest.mark.parametrize(
    ("uri", "service"),
    [
        ("spiffe://tidebook/engine", "engine"),
        ("spiffe://tidebook/", None),
        ("spiffe://tidebook/engine/x", None),
        ("spiffe://elsewhere/engine", None),
        ("engine", None),
    ],
)
def test_only_our_own_identities_count(uri: str, service: str | None) -> None:
    assert service_of_spiffe(uri) == service


def test_everyone_who_verifies_tokens_may_fetch_the_keys() -> None:
    assert ALLOWED_CALLERS["auth"] >= {"gateway", "engine", "settlement", "marketdata"}
    assert all("ops" in callers for callers in ALLOWED_CALLERS.values())


def test_a_scope_is_required_of_a_user() -> None:
    token = set_caller(Caller(account_id=1, scopes=frozenset({"read"}), service="gateway"))
    try:
        assert require("read").account_id == 1
        with pytest.raises(Refused) as caught:
            require("withdraw")
        assert caught.value.reason is Reason.SCOPE_MISSING
        assert require_service("gateway").service == "gateway"
        with pytest.raises(Refused) as caught:
            require_service("settlement")
        assert caught.value.reason is Reason.CALLER_NOT_ALLOWED
    finally:
        reset_caller(token)
    with pytest.raises(Refused) as caught:
        require("read")
    assert caught.value.reason is Reason.UNAUTHENTICATED
