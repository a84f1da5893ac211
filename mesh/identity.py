"""Who is calling: users by token, services by certificate.

The account always comes from here, never from a request body.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import ipaddress
import os
from collections.abc import Iterator
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kernel.reasons import Reason, Refused

SPIFFE_PREFIX = "spiffe://tidebook/"
CERTIFICATE_DAYS = 825
RENEW_BELOW_DAYS = 30
_CA_DAYS = 3650

# Which services may call which service's internal listener.
ALLOWED_CALLERS: dict[str, frozenset[str]] = {
    # Everyone who verifies tokens fetches the signing keys.
    "auth": frozenset({"gateway", "engine", "settlement", "marketdata", "ops"}),
    # Engines get snapshots from one another.
    "engine": frozenset({"gateway", "marketdata", "settlement", "engine", "ops"}),
    "marketdata": frozenset({"gateway", "engine", "ops"}),
    "settlement": frozenset({"auth", "gateway", "engine", "marketdata", "ops"}),
}


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom a call is made for, and by.

    `account_id` is 0 and `user_id` empty when no user token came with the call. `service` is the
    calling service on internal listeners and None on public ones.
    """

    account_id: int = 0
    user_id: str = ""
    session_id: str = ""
    scopes: frozenset[str] = frozenset()
    service: str | None = None
    # When the token stops being good, Unix seconds; 0 without one. The same caller with another.
    expires_s: int = field(default=0, compare=False)
    # Where the token may be used from; empty for anywhere.
    networks: tuple[str, ...] = ()


ANONYMOUS = Caller()
_caller: ContextVar[Caller] = ContextVar("tidebook_caller", default=ANONYMOUS)


def current_caller() -> Caller:
    """The caller of the RPC being served; `ANONYMOUS` outside one."""
    return _caller.get()


def set_caller(caller: Caller) -> Token[Caller]:
    """Make `caller` the current one (interceptors, and the gateway for its own calls)."""
    return _caller.set(caller)


def reset_caller(token: Token[Caller]) -> None:
    """Undo `set_caller`."""
    _caller.reset(token)


def require(scope: str) -> Caller:
    """The current caller if it is a user with `scope`.

    Raises `Refused(UNAUTHENTICATED)` without a user, `Refused(SCOPE_MISSING)` without the scope.
    """
    caller = _caller.get()
    if not caller.account_id:
        raise Refused(Reason.UNAUTHENTICATED, "an access token is required")
    if scope not in caller.scopes:
        raise Refused(Reason.SCOPE_MISSING, f"the token lacks the scope {scope}", scope=scope)
    return caller


def require_service(*services: str) -> Caller:
    """The current caller if it is one of these services; `Refused(CALLER_NOT_ALLOWED)` if not."""
    caller = _caller.get()
    if caller.service is None or (services and caller.service not in services):
        raise Refused(Reason.CALLER_NOT_ALLOWED)
    return caller


def service_dns_name(service: str) -> str:
    """The name a service's certificate is checked against, wherever it is reached."""
    return f"{service}.tidebook.internal"


def service_of_spiffe(uri: str) -> str | None:
    """`spiffe://tidebook/engine` -> `engine`; None for anything else."""
    service = uri.removeprefix(SPIFFE_PREFIX)
    return service if service != uri and service and "/" not in service else None


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Where a service's certificate, its key and the authority's certificate are (PEM)."""

    certificate: Path
    key: Path
    authority: Path


class CertificateAuthority:
    """The development authority in a folder: made at first start, safe for several processes.

    With certificates issued elsewhere put `ca.crt`, `<service>.crt` and `<service>.key` in the
    folder without a `ca.key`; they are then used as they are.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def issue(self, service: str) -> CertificateFiles:
        """The service's files, made or renewed when less than 30 days are left.

        Raises `OSError` when the folder cannot be written, `ValueError` when certificates from
        elsewhere are incomplete.
        """
        files = CertificateFiles(
            self._directory / f"{service}.crt",
            self._directory / f"{service}.key",
            self._directory / "ca.crt",
        )
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._locked():
            ca_key_file = self._directory / "ca.key"
            if files.authority.exists() and not ca_key_file.exists():
                if not (files.certificate.exists() and files.key.exists()):
                    raise ValueError(f"{files.authority} is there, but not {files.certificate}")
                return files
            authority, authority_key = self._authority(files.authority, ca_key_file)
            if not _is_good(files, authority):
                _make_leaf(service, files, authority, authority_key)
        return files

    def _authority(
        self, certificate_file: Path, key_file: Path
    ) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        if key_file.exists() and certificate_file.exists():
            certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
            key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
            if _days_left(certificate) >= RENEW_BELOW_DAYS and isinstance(
                key, ec.EllipticCurvePrivateKey
            ):
                return certificate, key
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Tidebook development CA")])
        builder = _builder(name, name, key.public_key(), _CA_DAYS)
        certificate = (
            builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        _write_private(key_file, _pem_key(key))
        _write_private(certificate_file, certificate.public_bytes(serialization.Encoding.PEM))
        return certificate, key

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        # All services start at once on a fresh folder; only one of them may make the authority.
        descriptor = os.open(self._directory / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _make_leaf(
    service: str,
    files: CertificateFiles,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, service)])
    names: list[x509.GeneralName] = [
        x509.UniformResourceIdentifier(SPIFFE_PREFIX + service),
        x509.DNSName(service_dns_name(service)),
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.IPv4Address("127.0.0.1")),
    ]
    certificate = (
        _builder(subject, authority.subject, key.public_key(), CERTIFICATE_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    _write_private(files.key, _pem_key(key))
    _write_private(files.certificate, certificate.public_bytes(serialization.Encoding.PEM))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        # Back-dated for machines whose clocks differ a little.
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=days))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _is_good(files: CertificateFiles, authority: x509.Certificate) -> bool:
    if not (files.certificate.exists() and files.key.exists()):
        return False
    certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError):
        return False
    return _days_left(certificate) >= RENEW_BELOW_DAYS


def _days_left(certificate: x509.Certificate) -> int:
    return (certificate.not_valid_after_utc - dt.datetime.now(dt.UTC)).days


def _pem_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write_private(path: Path, content: bytes) -> None:
    """Write so that a reader sees the old file or the new one, and nobody else sees any."""
    draft = path.with_suffix(path.suffix + ".new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    draft.replace(path)
