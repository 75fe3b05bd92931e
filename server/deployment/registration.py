"""Tells Flower's SuperLink which nodes are enrolled: it lets in no SuperNode with another key.

`<home>/supernodes.json` remembers what was registered, by public key, since Flower
itself gives a node's id only once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from fedstill.common.errors import RunError
from fedstill.common.files import write_text_atomically
from fedstill.server.deployment.flower_control import Control
from fedstill.server.pki.authority import EnrolledNode, read_fleet

REGISTERED = "supernodes.json"


class Registry:
    """Keeps a SuperLink's list of SuperNodes equal to the enrolled fleet.

    Args:
        authority: The authority's folder, or a copy of its list.
        home: The coordinator's folder.
        control: Flower's control interface.
        say: Told in one line of what happens.
    """

    def __init__(self, authority: Path, home: Path, *, control: Control, say: Callable[[str], None]) -> None:
        self._authority = authority
        self._home = home
        self._control = control
        self._say = say
        self._seen: dict[str, EnrolledNode] | None = None

    def sync(self) -> bool:
        """Registers who is new and takes off who was removed; what fails is tried again next time.

        Returns:
            Whether the SuperLink's list is the fleet's now.
        """
        fleet = {node.public_key: node for node in read_fleet(self._authority).values()}
        if fleet == self._seen:
            return True
        registered = self._load()
        for key, node in fleet.items():
            if key not in registered and (flower_id := self._register(node)) is not None:
                registered[key] = flower_id
                self._save(registered)
        for key in registered.keys() - fleet.keys():
            if self._unregister(registered[key]):
                del registered[key]
                self._save(registered)
        if registered.keys() != fleet.keys():
            return False
        self._seen = fleet
        return True

    def _register(self, node: EnrolledNode) -> str | None:
        try:
            flower_id = self._control.register(node.public_key, name=node.name)
        except RunError as error:
            if "already in use" in str(error):  # registered by hand, or the record was lost
                return ""
            self._say(f"{node.name} could not be registered: {error}")
            return None
        self._say(f"{node.name} may come")
        return flower_id

    def _unregister(self, flower_id: str) -> bool:
        if not flower_id:
            return True
        try:
            self._control.unregister(flower_id)
        except RunError as error:
            self._say(f"SuperNode {flower_id} could not be removed: {error}")
            return "not found" in str(error).lower()
        self._say(f"SuperNode {flower_id} was removed and may no longer come")
        return True

    def _load(self) -> dict[str, str]:
        try:
            content: dict[str, str] = json.loads((self._home / REGISTERED).read_bytes())
        except FileNotFoundError:
            return {}
        return content

    def _save(self, registered: dict[str, str]) -> None:
        write_text_atomically(self._home / REGISTERED, json.dumps(registered, indent=1))
