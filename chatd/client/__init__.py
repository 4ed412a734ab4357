"""The reference client: reconnects and resumes by itself, never sends twice, never loses or repeats an event.

`async with open_client(url, token=…) as client`. What it promises is in docs/client.md, with examples.
"""

from chatd.client.client import Client as Client
from chatd.client.client import History as History
from chatd.client.client import open_client as open_client
from chatd.client.core import Checkpoint as Checkpoint
from chatd.client.core import RoomEvent as RoomEvent
from chatd.client.core import place_of as place_of
from chatd.client.errors import ClientClosed as ClientClosed
from chatd.client.errors import ClientError as ClientError
from chatd.client.errors import Disconnected as Disconnected
from chatd.client.errors import ProtocolFault as ProtocolFault
from chatd.client.errors import Refused as Refused
from chatd.client.errors import UpgradeRefused as UpgradeRefused
from chatd.client.streams import Connected as Connected
from chatd.client.streams import Lost as Lost
from chatd.client.streams import Notice as Notice
from chatd.client.streams import Stream as Stream
