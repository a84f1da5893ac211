"""The methods of `tidebook.auth.v1.AuthService`: decode, call, encode."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from tidebook.auth.v1 import auth_pb2 as pb
from tidebook.auth.v1 import auth_pb2_grpc

from mesh.addresses import address_of_peer, client_address
from mesh.identity import current_caller
from services.auth import codec
from services.auth.api_keys import ApiKeys
from services.auth.domain.model import Client, Proof
from services.auth.service import Accounts
from services.auth.sessions import Sessions

Context = grpc.aio.ServicerContext[Any, Any]
# The browser's, as the gateway passes it on; else that of the gRPC library that calls.
_USER_AGENTS = ("grpcgateway-user-agent", "user-agent")
_USER_AGENT_MAX = 200
_EVENTS_PAGE = 50


class AuthServicer(auth_pb2_grpc.AuthServiceServicer):
    """Thin: rules are in the use cases, errors are mapped by the mesh."""

    def __init__(
        self,
        accounts: Accounts,
        sessions: Sessions,
        api_keys: ApiKeys,
        public_keys: Callable[[], Awaitable[dict[str, bytes]]],
    ) -> None:
        self._accounts = accounts
        self._sessions = sessions
        self._api_keys = api_keys
        self._public_keys = public_keys

    async def SignUp(self, request: pb.SignUpRequest, context: Context) -> pb.SignUpResponse:
        seconds = await self._accounts.sign_up(request.email, request.password, client_of(context))
        return pb.SignUpResponse(otp_ttl_seconds=seconds)

    async def VerifyOtp(
        self, request: pb.VerifyOtpRequest, context: Context
    ) -> pb.VerifyOtpResponse:
        user, tokens = await self._accounts.verify_code(
            request.email, request.code, client_of(context)
        )
        return pb.VerifyOtpResponse(
            tokens=codec.tokens_to_proto(tokens), user=codec.user_to_proto(user)
        )

    async def SignIn(self, request: pb.SignInRequest, context: Context) -> pb.SignInResponse:
        user, tokens = await self._accounts.sign_in(
            request.email,
            request.password,
            Proof(request.totp_code, request.recovery_code),
            client_of(context),
            email_code=request.email_code,
        )
        return pb.SignInResponse(
            tokens=codec.tokens_to_proto(tokens), user=codec.user_to_proto(user)
        )

    async def RefreshToken(
        self, request: pb.RefreshTokenRequest, context: Context
    ) -> pb.RefreshTokenResponse:
        tokens = await self._sessions.refresh(request.refresh_token, client_of(context))
        return pb.RefreshTokenResponse(tokens=codec.tokens_to_proto(tokens))

    async def SignOut(self, request: pb.SignOutRequest, context: Context) -> pb.SignOutResponse:
        await self._sessions.sign_out(client_of(context), everywhere=request.all_sessions)
        return pb.SignOutResponse()

    async def GetMe(self, request: pb.GetMeRequest, context: Context) -> pb.GetMeResponse:
        user, caller = await self._accounts.me()
        return pb.GetMeResponse(
            user=codec.user_to_proto(user), scopes=codec.scopes_to_proto(caller.scopes)
        )

    async def ListSessions(
        self, request: pb.ListSessionsRequest, context: Context
    ) -> pb.ListSessionsResponse:
        caller, sessions = await self._sessions.of_caller()
        return pb.ListSessionsResponse(
            sessions=[
                codec.session_to_proto(session, current=session.session_id == caller.session_id)
                for session in sessions
            ]
        )

    async def RevokeSession(
        self, request: pb.RevokeSessionRequest, context: Context
    ) -> pb.RevokeSessionResponse:
        await self._sessions.revoke(request.session_id, client_of(context))
        return pb.RevokeSessionResponse()

    async def ChangePassword(
        self, request: pb.ChangePasswordRequest, context: Context
    ) -> pb.ChangePasswordResponse:
        await self._accounts.change_password(
            request.current_password, request.new_password, client_of(context)
        )
        return pb.ChangePasswordResponse()

    async def RequestPasswordReset(
        self, request: pb.RequestPasswordResetRequest, context: Context
    ) -> pb.RequestPasswordResetResponse:
        seconds = await self._accounts.request_password_reset(request.email, client_of(context))
        return pb.RequestPasswordResetResponse(otp_ttl_seconds=seconds)

    async def ResetPassword(
        self, request: pb.ResetPasswordRequest, context: Context
    ) -> pb.ResetPasswordResponse:
        await self._accounts.reset_password(
            request.email, request.code, request.new_password, client_of(context)
        )
        return pb.ResetPasswordResponse()

    async def EnableTotp(
        self, request: pb.EnableTotpRequest, context: Context
    ) -> pb.EnableTotpResponse:
        secret, url = await self._accounts.begin_second_factor(request.password, client_of(context))
        return pb.EnableTotpResponse(secret=secret, otpauth_url=url)

    async def ConfirmTotp(
        self, request: pb.ConfirmTotpRequest, context: Context
    ) -> pb.ConfirmTotpResponse:
        codes = await self._accounts.confirm_second_factor(request.code, client_of(context))
        return pb.ConfirmTotpResponse(recovery_codes=codes)

    async def DisableTotp(
        self, request: pb.DisableTotpRequest, context: Context
    ) -> pb.DisableTotpResponse:
        await self._accounts.end_second_factor(
            request.password, Proof(request.code, request.recovery_code), client_of(context)
        )
        return pb.DisableTotpResponse()

    async def CreateRecoveryCodes(
        self, request: pb.CreateRecoveryCodesRequest, context: Context
    ) -> pb.CreateRecoveryCodesResponse:
        codes = await self._accounts.new_recovery_codes(
            request.password, Proof(request.code, request.recovery_code), client_of(context)
        )
        return pb.CreateRecoveryCodesResponse(recovery_codes=codes)

    async def CreateApiKey(
        self, request: pb.CreateApiKeyRequest, context: Context
    ) -> pb.CreateApiKeyResponse:
        key, secret = await self._api_keys.create(
            request.name,
            codec.scopes_from_proto(request.scopes),
            request.ip_allow_list,
            codec.time_from_proto(request.expire_time, field="expire_time")
            if request.HasField("expire_time")
            else None,
            client_of(context),
        )
        return pb.CreateApiKeyResponse(api_key=codec.api_key_to_proto(key), secret=secret)

    async def ListApiKeys(
        self, request: pb.ListApiKeysRequest, context: Context
    ) -> pb.ListApiKeysResponse:
        keys = await self._api_keys.of_caller()
        return pb.ListApiKeysResponse(api_keys=map(codec.api_key_to_proto, keys))

    async def RevokeApiKey(
        self, request: pb.RevokeApiKeyRequest, context: Context
    ) -> pb.RevokeApiKeyResponse:
        await self._api_keys.revoke(request.api_key_id, client_of(context))
        return pb.RevokeApiKeyResponse()

    async def ExchangeApiKey(
        self, request: pb.ExchangeApiKeyRequest, context: Context
    ) -> pb.ExchangeApiKeyResponse:
        token, expires_at = await self._api_keys.exchange(
            request.api_key_id, request.secret, client_of(context)
        )
        return pb.ExchangeApiKeyResponse(
            access_token=token, expire_time=codec.timestamp(expires_at)
        )

    async def ListSecurityEvents(
        self, request: pb.ListSecurityEventsRequest, context: Context
    ) -> pb.ListSecurityEventsResponse:
        size = request.page_size or _EVENTS_PAGE
        # One more than asked tells whether there is a next page.
        events = await self._accounts.security_events(
            before=codec.event_page_from(request.page_token), most=size + 1
        )
        return codec.security_events_to_proto(events, size)

    async def GetSigningKeys(
        self, request: pb.GetSigningKeysRequest, context: Context
    ) -> pb.GetSigningKeysResponse:
        return codec.signing_keys_to_proto(await self._public_keys())


def client_of(context: Context) -> Client:
    """Where a call comes from."""
    metadata = {
        key: value if isinstance(value, str) else value.decode("utf-8", "replace")
        for key, value in context.invocation_metadata() or ()
    }
    agent = next((metadata[name] for name in _USER_AGENTS if metadata.get(name)), "")
    ip = client_address(context, from_service=current_caller().service is not None)
    if ip is None:
        ip = address_of_peer(context.peer())
    return Client(ip=ip, user_agent=agent[:_USER_AGENT_MAX])
