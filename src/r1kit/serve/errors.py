"""Errors in the shape of OpenAI's interface."""

from typing import Any

CLIENT_GONE = 499  # as nginx writes it into its log; it is sent to no client


class ApiError(Exception):
    """A request that is not answered. ``param`` is the key of the body that is wrong; ``retry_after`` seconds
    are sent as a header."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None,
        retry_after: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}

    def body(self) -> dict[str, Any]:
        """The body of the answer."""
        kind = {401: "authentication_error", 403: "permission_error", 404: "not_found_error"}.get(self.status)
        kind = kind or {429: "rate_limit_error"}.get(self.status)
        kind = kind or ("server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}
