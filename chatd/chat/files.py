"""Files: who may send which, who may see them, and what messages show of them.

The order of an upload is its safety: first whether there is a place, a budget and room in the quota for it, then its
bytes, then what they are, then the blobs are durable, and only then there is a row. What breaks off before leaves
nothing, or a blob that nobody uses and cleaning removes.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final, NamedTuple

from chatd import telemetry
from chatd.chat.context import take
from chatd.errors import Refusal
from chatd.ids import new_id
from chatd.records import Attachment, UploadedFile, format_time
from chatd.store.database import Conflict
from chatd.store.files import File
from chatd.wire.http import ClientGone, HttpError
from chatd.wire.multipart import MAX_FRAME_BYTES, BadForm, FileBegins, FileForm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chatd.chat.context import Chat
    from chatd.files.blobs import Opened
    from chatd.files.depot import Made, Piece
    from chatd.files.incoming import Arriving
    from chatd.store.files import Named
    from chatd.wire.http import Body

log = telemetry.get_logger(__name__)

HOUR_MS: Final = 3_600_000
#: A file that somebody is about to show is kept for so long, whatever becomes of the message.
HOLD_MS: Final = 300_000
NAME_BYTES: Final = 16
THUMBNAIL_TYPE: Final = "image/webp"


async def upload(chat: Chat, user_id: str, *, content_type: str, body: Body) -> File:
    """Take in a file. Raises `Refusal`, and `HttpError` 413 as soon as it is seen to be too large."""
    numbers = chat.metrics
    try:
        with numbers.uploads_under_way.track_inprogress():
            file = await _take_in(chat, user_id, content_type=content_type, body=body)
    except Refusal:
        numbers.uploads["refused"].inc()
        raise
    except HttpError as error:
        numbers.uploads["refused"].inc()
        chat.audit.note("upload_refused", user=user_id, code=error.code, asked="POST /api/upload")
        raise
    except ClientGone:
        numbers.uploads["broken_off"].inc()
        raise
    numbers.uploads["stored"].inc()
    numbers.upload_bytes.inc(file.size)
    chat.audit.note("file_uploaded", user=user_id, file=file.id, kind=file.mime_type, size=file.size)
    return file


async def _take_in(chat: Chat, user_id: str, *, content_type: str, body: Body) -> File:
    options = chat.options.uploads
    try:
        form = FileForm(content_type)
    except BadForm as fault:
        raise Refusal("bad_message", str(fault)) from None
    body.total_s = options.total_s
    if body.length is not None and body.length > options.max_bytes + MAX_FRAME_BYTES:
        raise _too_large(options.max_bytes)
    with chat.depot.admit(user_id):
        await _check_quota(chat, user_id, max(0, (body.length or 0) - MAX_FRAME_BYTES))
        detail = f"You may send {chat.rates.uploads.burst} files an hour; wait a little."
        await take(chat, "uploads:" + user_id, chat.rates.uploads, detail)
        with chat.depot.receive() as arriving:
            name = await _receive(body, form, arriving, max_bytes=options.max_bytes)
            kind = await chat.depot.judge(arriving, name)
            async with chat.depot.make(arriving, kind) as made:
                file = _file(chat, user_id, name, mime_type=kind.mime_type, ending=kind.ending, made=made)
                await _keep(chat, file, made)
    return file


async def _receive(body: Body, form: FileForm, arriving: Arriving, *, max_bytes: int) -> str:
    """Write what arrives; the name that the user gave."""
    name = ""
    try:
        while part := await body.read_part(max_bytes=max_bytes + MAX_FRAME_BYTES):
            for event in form.feed(part):
                if isinstance(event, FileBegins):
                    name = event.name
                    continue
                if arriving.size + len(event) > max_bytes:
                    raise _too_large(max_bytes)
                await arriving.write(event)
        form.end()
    except BadForm as fault:
        raise Refusal("bad_message", str(fault)) from None
    await arriving.finish()
    return name


def _too_large(max_bytes: int) -> HttpError:
    return HttpError(413, "file_rejected", f"The file is too large: send at most {max_bytes} bytes.")


def _file(chat: Chat, user_id: str, name: str, *, mime_type: str, ending: str, made: Made) -> File:
    stem, thumbnail = secrets.token_urlsafe(NAME_BYTES), made.thumbnail
    return File(
        id=new_id(),
        owner_id=user_id,
        name=f"{stem}.{ending}",
        original_name=name,
        mime_type=mime_type,
        size=made.content.size,
        sha256=made.content.sha256,
        width=made.sizes.width if made.sizes else None,
        height=made.sizes.height if made.sizes else None,
        thumbnail_name=f"{stem}-thumbnail.webp" if thumbnail else None,
        thumbnail_size=thumbnail.size if thumbnail else None,
        thumbnail_sha256=thumbnail.sha256 if thumbnail else None,
        created_at=chat.clock(),
    )


async def _keep(chat: Chat, file: File, made: Made) -> None:
    """Have the bytes durable, then the row. Raises `Refusal`."""
    for piece in filter(None, (made.content, made.thumbnail)):
        await _keep_piece(chat, piece)
    quota = chat.options.uploads.quota_bytes
    try:
        async with chat.depot.recording:
            is_added = await chat.files.add(file, quota_bytes=quota, look_at_ms=look_at_ms(chat))
    except Conflict:
        raise Refusal("conflict", "Storing the file took too long; send it again.") from None
    if not is_added:
        raise _over_quota(quota)


async def _keep_piece(chat: Chat, piece: Piece) -> None:
    async with chat.depot.recording:
        claim = await chat.files.claim(piece.sha256, size=piece.size, now_ms=chat.clock())
    if not claim.is_stored:
        await chat.depot.blobs.put(claim.key, piece.path)


async def _check_quota(chat: Chat, user_id: str, size: int) -> None:
    quota = chat.options.uploads.quota_bytes
    if quota and await chat.files.usage(user_id) + size > quota:
        raise _over_quota(quota)


def _over_quota(quota: int) -> Refusal:
    return Refusal("limit_reached", f"Your files may have {quota} bytes together; remove some that you do not need.")


def look_at_ms(chat: Chat) -> int:
    """When it is to be looked at whether something shows a file, from now."""
    return chat.clock() + chat.options.uploads.keep_unshown_hours * HOUR_MS


class Page(NamedTuple):
    """Files, newest first, and whether there are older ones."""

    files: Sequence[File]
    has_more: bool


async def own_files(chat: Chat, user_id: str, *, before: str, limit: int, offset: int) -> Page:
    found = await chat.files.page(user_id, before=before, limit=limit + 1, offset=offset)
    return Page(found[:limit], len(found) > limit)


async def remove_file(chat: Chat, user_id: str, file_id: str) -> None:
    """Remove one's own file. Raises `Refusal`: `not_found`, or `conflict` where something shows it."""
    if await chat.files.remove_own(file_id, user_id, now_ms=chat.clock()):
        chat.audit.note("file_removed", user=user_id, file=file_id)
        return
    shown = await chat.files.shown(file_id, user_id, now_ms=chat.clock())
    if shown is None:
        raise Refusal("not_found", "There is no such file of yours; GET /api/upload lists them.")
    if shown.is_shown:
        raise Refusal("conflict", "A message or your profile shows this file; delete that first.")
    raise Refusal("conflict", "This file was about to be shown; try again in a few minutes.")


class Visible(NamedTuple):
    """A file, or its thumbnail, that somebody may see."""

    file: File
    is_thumbnail: bool
    key: str
    mime_type: str
    size: int
    sha256: str


async def find_file(chat: Chat, user_id: str, name: str) -> Visible:
    """The file or thumbnail of this name, if the user may see it.

    One that is somebody else's and a missing one look alike: `not_found`.
    """
    found = await chat.files.by_name(name)
    if found is None or not (found.file.owner_id == user_id or await chat.files.is_for(found.file.id, user_id)):
        raise no_such_file()
    return _visible(found, name)


async def find_linked(chat: Chat, maker_id: str, name: str) -> Visible:
    """The file or thumbnail of this name, for who has a link that a user has made and that is good still."""
    found = await chat.files.by_name(name)
    if found is None or not await chat.files.is_linkable(found.file.id, maker_id):
        raise no_such_file()
    return _visible(found, name)


async def check_linkable(chat: Chat, visible: Visible, user_id: str) -> None:
    """Raise `Refusal` (`conflict`) where a link of the user would lead nowhere: to a file that is shown no more."""
    if not await chat.files.is_linkable(visible.file.id, user_id):
        raise Refusal("conflict", "Nothing shows this file any more; show it again, or upload it anew.")


def _visible(found: Named, name: str) -> Visible:
    file = found.file
    if name == file.name:
        return Visible(file, False, found.key, file.mime_type, file.size, file.sha256)
    assert found.thumbnail_key is not None
    assert file.thumbnail_size is not None
    assert file.thumbnail_sha256 is not None
    return Visible(file, True, found.thumbnail_key, THUMBNAIL_TYPE, file.thumbnail_size, file.thumbnail_sha256)


async def open_file(chat: Chat, visible: Visible) -> Opened:
    opened = await chat.depot.blobs.open(visible.key)
    if opened is None:
        log.error("file_without_bytes", file=visible.file.id)
        raise no_such_file()
    return opened


def no_such_file() -> Refusal:
    return Refusal("not_found", "There is no such file, or it is not for you.")


def url_of(name: str) -> str:
    return f"/api/files/{name}"


def as_shown(file: File) -> UploadedFile:
    """A file as its owner sees it."""
    return UploadedFile(
        id=file.id,
        url=url_of(file.name),
        type=file.mime_type,
        size=file.size,
        name=file.original_name,
        created_at=format_time(file.created_at),
        width=file.width,
        height=file.height,
        thumbnail_url=None if file.thumbnail_name is None else url_of(file.thumbnail_name),
    )


async def attach(chat: Chat, user_id: str, *, message_type: str, file_id: str | None) -> Attachment | None:
    """What a message shows of a file of its sender, which is kept from now on for as long as the message needs.

    Raises `Refusal` where the message and the file do not fit each other.
    """
    is_about_file = message_type in ("image", "file")
    if file_id is None:
        if is_about_file:
            raise Refusal("bad_message", "Give the field `fileId`: POST /api/upload gives one.")
        return None
    if not is_about_file:
        raise Refusal("bad_message", 'With a `fileId` the `messageType` is "image" or "file".')
    file = await hold(chat, user_id, file_id)
    if message_type == "image" and file.width is None:
        raise Refusal("bad_message", 'This file is no image; send it with the `messageType` "file".')
    shown = as_shown(file)
    return Attachment(
        file_id=file.id,
        url=shown.url,
        mime_type=file.mime_type,
        size=file.size,
        name=file.original_name,
        thumbnail_url=shown.thumbnail_url,
        width=file.width,
        height=file.height,
    )


async def check_avatar(chat: Chat, user_id: str, file_id: str) -> None:
    """Have one's own image kept for one's profile. Raises `Refusal` where it is none."""
    if (await hold(chat, user_id, file_id)).width is None:
        raise Refusal("bad_message", "The field `avatarFileId` is that of an image; this file is none.")


async def hold(chat: Chat, user_id: str, file_id: str) -> File:
    """One's own file, which is not removed while it is about to be shown. Raises `Refusal` (`not_found`)."""
    until = chat.clock() + HOLD_MS
    file = await chat.files.hold(file_id, user_id, until_ms=until, look_at_ms=look_at_ms(chat))
    if file is None:
        raise Refusal("not_found", "There is no file of yours with this id; POST /api/upload gives one.")
    return file
