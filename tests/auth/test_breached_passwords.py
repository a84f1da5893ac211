"""Passwords that were in a breach are not taken, where the operator has a list of them."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tidebook.auth.v1 import auth_pb2 as pb

from kernel.reasons import Reason
from mesh.config import Settings
from mesh.status import refused_from
from services.auth.breached_passwords import BadPasswordList, BreachedPasswords
from tests.auth.conftest import MailServer, running_auth

LOST = "lost-in-some-breach"
words = st.sets(st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1))


def sha1(password: str) -> str:
    return hashlib.sha1(password.encode(), usedforsecurity=False).hexdigest().upper()


def write(path: Path, passwords: set[str], *, end: str = "\n", counts: bool = True) -> Path:
    """A list like those that are given away."""
    hashes = sorted(map(sha1, passwords))
    lines = [f"{one}:{number**5 + 1}" if counts else one for number, one in enumerate(hashes)]
    path.write_bytes(end.join([*lines, ""]).encode())
    return path


@contextlib.contextmanager
def refused_for(field: str) -> Iterator[None]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield
    error = refused_from(caught.value)
    assert (error.reason, error.field) == (Reason.PASSWORD_TOO_WEAK, field)
    assert "was in a breach" in error.message


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lists")


@given(lost=words.filter(len), others=words, counts=st.booleans(), crlf=st.booleans())
async def test_exactly_what_is_in_the_list_is_found(
    folder: Path, lost: set[str], others: set[str], counts: bool, crlf: bool
) -> None:
    path = write(folder / "list.txt", lost, end="\r\n" if crlf else "\n", counts=counts)
    breached = BreachedPasswords(path)
    assert [one for one in lost | others if await breached.has(one)] == [
        one for one in lost | others if one in lost
    ]
    breached.close()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "No such file"),
        ("", "empty"),
        ("password\n123456\n", "one SHA-1 hash a line"),
        ("x" * 5000, "one SHA-1 hash a line"),
        (f"{'F' * 40}:1\n{'0' * 40}:1\n", "not in order"),
    ],
)
def test_a_file_that_is_no_list_is_not_believed(tmp_path: Path, text: str | None, why: str) -> None:
    path = tmp_path / "list.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BadPasswordList, match=f"TIDEBOOK_BREACHED_PASSWORDS: .*{why}"):
        BreachedPasswords(path)


async def test_a_breached_password_is_refused_wherever_one_is_set(
    settings: Settings, mail_server: MailServer, tmp_path: Path
) -> None:
    lost = write(tmp_path / "list.txt", {LOST, *map(str, range(1000))})
    listed = settings.model_copy(update={"breached_passwords": lost})
    async with running_auth(listed, mail_server) as auth:
        email = auth.new_email()
        with refused_for("password"):
            await auth.stub.SignUp(pb.SignUpRequest(email=email, password=LOST))
        person = await auth.sign_up(email)
        with refused_for("new_password"):
            await auth.stub.ChangePassword(
                pb.ChangePasswordRequest(current_password=person.password, new_password=LOST),
                metadata=person.bearer,
            )
        await auth.stub.RequestPasswordReset(pb.RequestPasswordResetRequest(email=email))
        code = await auth.mail.code_for(email, nth=2)
        with refused_for("new_password"):
            await auth.stub.ResetPassword(
                pb.ResetPasswordRequest(email=email, code=code, new_password=LOST)
            )
        # The code was not spent on it.
        await auth.stub.ResetPassword(
            pb.ResetPasswordRequest(email=email, code=code, new_password=LOST + "!")
        )
