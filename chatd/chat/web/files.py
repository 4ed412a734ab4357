"""/api/upload and /api/files: sending files, listing one's own, and getting those that one may see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from chatd.chat import files
from chatd.chat.forms import read_page
from chatd.chat.web.call import page_response
from chatd.records import encode_json, format_time
from chatd.store.files import NO_ID
from chatd.wire.http import Response, json_response
from chatd.wire.ranges import Download, answer_with, content_disposition, is_known, not_modified

if TYPE_CHECKING:
    from chatd.chat.context import Chat
    from chatd.chat.files import Visible
    from chatd.chat.web.call import Call
    from chatd.wire.http import Headers

#: Shown in the browser itself; all else is saved.
_INLINE: Final = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp", "application/pdf"})
#: Nothing in a file runs, whatever a browser makes of it. What shows PDF documents does not work in a sandbox.
_POLICY: Final = "default-src 'none'; frame-ancestors 'none'; sandbox"
_PDF_POLICY: Final = "default-src 'none'; object-src 'self'; style-src 'unsafe-inline'; frame-ancestors 'none'"
#: A file never changes; who saw it an hour ago may see it still.
_CACHE_S: Final = 3600


async def upload(chat: Chat, call: Call) -> Response:
    """POST /api/upload"""
    request = call.request
    file = await files.upload(
        chat, call.signed_in.user_id, content_type=request.header("content-type") or "", body=request.body
    )
    return json_response(201, encode_json({"success": True, "file": files.as_shown(file)}))


async def list_uploads(chat: Chat, call: Call) -> Response:
    """GET /api/upload: newest first; `after` is the id of the last one of the page before."""
    query = read_page(call.request.query, default_limit=50)
    before = query.after_id or NO_ID
    page = await files.own_files(chat, call.signed_in.user_id, before=before, limit=query.limit, offset=query.offset)
    shown = [files.as_shown(file) for file in page.files]
    return page_response("files", shown, has_more=page.has_more, cursor=lambda file: file.id)


async def remove_upload(chat: Chat, call: Call) -> Response:
    """DELETE /api/upload/:id"""
    await files.remove_file(chat, call.signed_in.user_id, call.parts[0])
    return json_response(200, b'{"success":true}')


async def make_link(chat: Chat, call: Call) -> Response:
    """POST /api/files/:name/link: a link that works without a token, for a while."""
    name, maker_id = call.parts[0], call.signed_in.user_id
    visible = await files.find_file(chat, maker_id, name)
    await files.check_linkable(chat, visible, maker_id)
    expires_at = chat.clock() + chat.options.uploads.link_hours * files.HOUR_MS
    url = f"{files.url_of(name)}?{chat.file_links.sign(name, maker_id=maker_id, expires_at_ms=expires_at)}"
    chat.audit.note("file_linked", file=visible.file.id)
    answer = {"url": url, "expiresAt": format_time(expires_at), "type": visible.mime_type}
    return json_response(201, encode_json(answer), headers=(("cache-control", "no-store"),))


async def get_file(chat: Chat, call: Call) -> Response:
    """GET /api/files/:name, with a token or a signed link"""
    name, query = call.parts[0], call.request.query
    cached_s = _CACHE_S
    if call.caller is not None:
        visible = await files.find_file(chat, call.caller.user_id, name)
    else:
        maker_id, expires, signature = (query.get(part, "") for part in ("by", "expires", "signature"))
        now_ms = chat.clock()
        until_ms = chat.file_links.check(name, maker_id=maker_id, expires=expires, signature=signature, now_ms=now_ms)
        visible = await files.find_linked(chat, maker_id, name)
        cached_s = min(cached_s, (until_ms - now_ms) // 1000)
    download = _download(visible, cached_s)
    if is_known(call.request, download):
        return not_modified(download)
    return answer_with(call.request, download, await files.open_file(chat, visible))


def _download(visible: Visible, cached_s: int) -> Download:
    file, name = visible.file, visible.file.original_name
    if visible.is_thumbnail:
        name = f"{name.rpartition('.')[0] or name}-thumbnail.webp"
    policy = _PDF_POLICY if visible.mime_type == "application/pdf" else _POLICY
    headers: Headers = (
        ("cache-control", f"private, max-age={max(0, cached_s)}"),
        ("content-disposition", content_disposition(name, is_inline=file.mime_type in _INLINE)),
        ("content-security-policy", policy),
    )
    charset = "; charset=utf-8" if visible.mime_type.startswith("text/") else ""
    return Download(visible.size, visible.mime_type + charset, f'"{visible.sha256[:32]}"', headers)
