"""Signatures of requests to S3: AWS Signature Version 4, in the headers. Pure.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
"""

from __future__ import annotations

import hashlib
import hmac
import time
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Mapping

    from chatd.config import Secret

NO_BODY: Final = hashlib.sha256(b"").hexdigest()
UNSIGNED: Final = "UNSIGNED-PAYLOAD"
_ALGORITHM: Final = "AWS4-HMAC-SHA256"


class Signer(NamedTuple):
    """Who signs, and for which region."""

    key_id: str
    secret: Secret
    region: str

    def sign(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        query: Mapping[str, str],
        payload: str,
        now_s: float,
    ) -> dict[str, str]:
        """All headers of the request, with these (lower-case names, `host` among them) and the signature.

        `payload` is the SHA-256 of the body, or UNSIGNED; path and query are as they mean, not quoted.
        """
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_s))
        day = moment[:8]
        signed = {**headers, "x-amz-content-sha256": payload, "x-amz-date": moment}
        names = ";".join(sorted(signed))
        canonical = "\n".join([
            method, quote(path, safe="/~"), quoted_query(query),
            *(f"{name}:{signed[name].strip()}" for name in sorted(signed)), "", names, payload,
        ])  # fmt: skip
        scope = f"{day}/{self.region}/s3/aws4_request"
        to_sign = f"{_ALGORITHM}\n{moment}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        key = f"AWS4{self.secret.reveal()}".encode()
        for part in (day, self.region, "s3", "aws4_request"):
            key = hmac.digest(key, part.encode(), hashlib.sha256)
        signature = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
        credential = f"Credential={self.key_id}/{scope}"
        return signed | {"authorization": f"{_ALGORITHM} {credential},SignedHeaders={names},Signature={signature}"}


def quoted_query(query: Mapping[str, str]) -> str:
    """As it is signed and sent."""
    return "&".join(f"{quote(name, safe='~')}={quote(query[name], safe='~')}" for name in sorted(query))
