"""The one thing of auth that other services need: its published signing keys."""

from __future__ import annotations

from typing import Any

from tidebook.auth.v1 import auth_pb2, auth_pb2_grpc

from mesh.tokens import TokenSigner, encode_key


class SigningKeys(auth_pb2_grpc.AuthServiceServicer):
    """An auth that publishes the key of one signer and has no other method."""

    def __init__(self, signer: TokenSigner) -> None:
        self._key = auth_pb2.SigningKey(
            kid=signer.kid, kty="OKP", crv="Ed25519", alg="EdDSA", x=encode_key(signer.public_key)
        )

    async def GetSigningKeys(
        self, request: auth_pb2.GetSigningKeysRequest, context: Any
    ) -> auth_pb2.GetSigningKeysResponse:
        return auth_pb2.GetSigningKeysResponse(keys=[self._key])
