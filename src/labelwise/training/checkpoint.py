"""Checkpoints that survive `kill -9` at any moment: written aside, verified, then pointed to."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from labelwise.data.files import explained, write_atomically, write_json
from labelwise.errors import UnusableFolder

KEEP = 2


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoint folder of one run.

    Each commit writes `NUMBER.pt`, then `NUMBER.json` with its size and SHA-256, then moves the
    `LAST` pointer; every write is aside-fsync-rename. The newest two are kept.

    Args:
        folder: where they live.
        digest: hash of the run's configuration; a checkpoint of another one is refused.
    """

    folder: Path
    digest: str

    def any(self) -> bool:
        """Whether anything was ever committed."""
        return bool(self._numbered())

    def save(self, state: dict[str, Any]) -> None:
        """Commit a state; when this returns it survives a crash.

        Raises:
            UserError: when it cannot be written; earlier checkpoints stay valid.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise explained(error, self.folder) from error
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getvalue()
        number = max((int(path.stem) for path in self._numbered()), default=0) + 1
        path = self.folder / f"{number:06d}.pt"
        write_atomically(path, lambda file: file.write(content))
        entry = {
            "file": path.name,
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "config": self.digest,
        }
        write_json(path.with_suffix(".json"), entry)
        write_json(self.folder / "LAST", entry)
        for old in self._numbered()[:-KEEP]:
            old.unlink(missing_ok=True)
            old.with_suffix(".pt").unlink(missing_ok=True)

    def load(self) -> dict[str, Any] | None:
        """Return the newest state that is whole, or None if there is none.

        A torn or corrupted checkpoint is passed over for the one before.

        Raises:
            UnusableFolder: when checkpoints exist but belong to another configuration, or none is
                whole.
        """
        tried: list[str] = []
        for entry in self._entries():
            if entry["config"] != self.digest:
                raise UnusableFolder(
                    f"the checkpoint {self.folder / entry['file']} belongs to a run with another "
                    "configuration. Resume with the run's own config.json, or choose another --out."
                )
            state = self._read(entry)
            if state is not None:
                return state
            tried.append(entry["file"])
        if tried:
            raise UnusableFolder(
                f"no checkpoint in {self.folder} is whole (tried {', '.join(tried)}). "
                "Start the run again in another folder."
            )
        return None

    def _numbered(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*.json"))

    def _entries(self) -> Iterator[dict[str, Any]]:
        seen: set[str] = set()
        for path in (self.folder / "LAST", *reversed(self._numbered())):
            try:
                entry = json.loads(path.read_text(encoding="utf-8"))
                name, _, _, _ = entry["file"], entry["size"], entry["sha256"], entry["config"]
            except (OSError, ValueError, KeyError, TypeError):
                continue  # a torn pointer: the numbered entries are still there
            if name not in seen:
                seen.add(name)
                yield entry

    def _read(self, entry: dict[str, Any]) -> dict[str, Any] | None:
        try:
            content = (self.folder / entry["file"]).read_bytes()
        except OSError:
            return None
        whole = len(content) == entry["size"]
        if not whole or hashlib.sha256(content).hexdigest() != entry["sha256"]:
            return None
        state: dict[str, Any] = torch.load(
            io.BytesIO(content), map_location="cpu", weights_only=True
        )
        return state
