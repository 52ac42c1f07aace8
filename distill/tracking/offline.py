"""What a run logs while its server is away, kept on disk in order, and its upload.

<store>/offline/<run id, or offline-<12 hex> for a run that never reached its server>/
    meta.json      tracking URI and experiment that the run is meant for
    events.jsonl   one event a line (events.py), appended and flushed to disk; a torn last line is dropped
    files/         copies of the logged artifacts, deleted once they are on the server
    state.json     the run's id on the server, how many events are there, and the resume floor (events.above)
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from distill.config import TrackingConfig
from distill.errors import UserError
from distill.tracking.client import (
    Missing,
    Refused,
    ServerAway,
    arrive,
    ask,
    log,
    redact,
    tracking_uri,
)
from distill.tracking.events import Event, above, apply, create, last_steps


class Spool:
    """One run's spool folder. Appending and uploading may happen in different processes at once."""

    def __init__(self, folder: Path):
        self.folder = folder.resolve()
        self._copies: dict[tuple[str, str], Path] = {}

    @classmethod
    def make(cls, root: Path, name: str, tracking: TrackingConfig, run_id: str | None) -> Spool:
        """Open `<root>/offline/<name>`, creating it if need be. `run_id`: the run's id on the server, if it has one."""
        spool = cls(root / "offline" / name)
        spool.folder.mkdir(parents=True, exist_ok=True)
        if not (spool.folder / "events.jsonl").exists():
            spool._aim(tracking_uri(tracking), tracking.experiment)
            spool._save({"run_id": run_id, "applied": 0, "floor": {}})
            (spool.folder / "events.jsonl").touch()
        return spool

    @classmethod
    def find(cls, root: Path, run_id: str) -> Spool | None:
        """The spool of this run, by its folder's name or by its id on the server."""
        for path in sorted((root / "offline").glob("*/events.jsonl")):
            spool = cls(path.parent)
            if run_id in (path.parent.name, spool.run_id):
                return spool
        return None

    @property
    def run_id(self) -> str | None:
        return self._state()["run_id"]

    @property
    def pending(self) -> int:
        """Number of events that are not on the server."""
        return len(self.events()) - self._state()["applied"]

    def command(self) -> str:
        return f"python -m distill.tracking upload '{self.folder}'"

    def events(self) -> list[Event]:
        lines = (self.folder / "events.jsonl").read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines[:-1]]  # what follows the last newline was cut off by a kill

    def last_steps(self) -> dict[str, int]:
        """Largest step of each metric among the spooled events."""
        steps: dict[str, int] = {}
        for event in self.events():
            if event["op"] == "metrics":
                for key in event["values"]:
                    steps[key] = max(steps.get(key, event["step"]), event["step"])
        return steps

    def append(self, event: Event) -> None:
        """Add an event; an artifact is copied, and replaces an unsent older copy of the same artifact."""
        copied = None
        if event["op"] == "artifact":
            source = Path(event["file"])
            copied = self.folder / "files" / uuid.uuid4().hex[:12] / source.name
            copied.parent.mkdir(parents=True)
            if source.is_dir():
                shutil.copytree(source, copied)
            else:
                shutil.copyfile(source, copied)
            event = {**event, "file": copied.relative_to(self.folder).as_posix()}
        with open(self.folder / "events.jsonl", "r+b") as file:
            data = file.read()
            file.seek(data.rfind(b"\n") + 1)
            file.truncate()
            file.write(json.dumps(event).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if copied is not None:
            old = self._copies.pop((event["folder"], copied.name), None)
            if old is not None:
                shutil.rmtree(old.parent, ignore_errors=True)
            self._copies[event["folder"], copied.name] = copied

    def replay(self, uri: str = "") -> int:
        """Send what is not on the server yet, in order, remembering after each event how far it got.

        Returns the number of events sent. Raises ServerAway (try again later; nothing is lost or sent twice) and
        UserError (no URI known, or the server does not have the run that these events belong to).
        """
        if self.run_id is not None and not self.pending:
            return 0
        tracking = self._tracking(uri)
        target = tracking_uri(tracking)
        client = ask(lambda: arrive(tracking))
        with self._lock():
            state, events, sent = self._state(), self.events(), 0
            if state["run_id"] is not None:
                self._check_run(client, state["run_id"], target)
            self._aim(target, tracking.experiment)  # what is logged after an upload to elsewhere belongs there too
            for event in events[state["applied"] :]:
                try:
                    ask(lambda event=event: self._apply(client, tracking, state, event))
                except Refused as refusal:  # it would be refused for ever, and block all that follows
                    if event["op"] == "start":
                        raise ServerAway(f"the server refuses the run: {refusal}") from refusal
                    log.warning("The tracking server refused a spooled '%s' event: %s.", event["op"], refusal)
                state["applied"] += 1
                sent += 1
                self._save(state)
                if event["op"] == "artifact":
                    shutil.rmtree((self.folder / event["file"]).parent, ignore_errors=True)
            return sent

    def _apply(self, client, tracking: TrackingConfig, state: dict[str, Any], event: Event) -> None:
        if event["op"] == "start":
            state["run_id"] = create(client, tracking, event)
            self._link_work(state["run_id"])
            return
        if event["op"] == "artifact" and not (self.folder / event["file"]).exists():
            return  # a newer copy of it follows
        if event["op"] == "reopen":
            state["floor"] = last_steps(client, state["run_id"])
        if event["op"] == "metrics":
            event = above(state["floor"], event)
        apply(client, state["run_id"], event, self.folder)

    def _check_run(self, client, run_id: str, target: str) -> None:
        try:
            ask(lambda: client.get_run(run_id))
        except Missing:
            raise UserError(
                f"Run {run_id} was begun on another tracking server: {redact(target)} does not have it, "
                f"so its spool '{self.folder}' cannot be uploaded there."
            ) from None

    def _link_work(self, run_id: str) -> None:
        """Let the work folder of a run that began offline be found under its new id too."""
        link = self.folder.parents[1] / "work" / run_id
        if (link.parent / self.folder.name).is_dir():
            with contextlib.suppress(OSError):  # there already, or a file system without links
                link.symlink_to(self.folder.name, target_is_directory=True)

    def _aim(self, uri: str, experiment: str) -> None:
        """Remember where the run belongs; never a password."""
        meta = {"uri": uri if redact(uri) == uri else "", "experiment": experiment}
        _write_json(self.folder / "meta.json", meta)

    def _tracking(self, uri: str) -> TrackingConfig:
        meta = json.loads((self.folder / "meta.json").read_text(encoding="utf-8"))
        uri = uri or meta["uri"] or os.environ.get("MLFLOW_TRACKING_URI", "")
        if not uri:
            raise UserError(
                f"The tracking URI of spool '{self.folder}' holds a password and was not stored; give it as --uri "
                "or in MLFLOW_TRACKING_URI."
            )
        return TrackingConfig(uri=uri, store=str(self.folder.parents[1]), experiment=meta["experiment"])

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        lock = FileLock(self.folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ServerAway("another process is uploading this run now") from None
        try:
            yield
        finally:
            lock.release()

    def _state(self) -> dict[str, Any]:
        return json.loads((self.folder / "state.json").read_text(encoding="utf-8"))

    def _save(self, state: dict[str, Any]) -> None:
        _write_json(self.folder / "state.json", state)


def upload(folders: list[Path], uri: str = "") -> bool:
    """Replay these spool folders and print what happened to each; True if nothing is left to send.

    Raises UserError for a folder that is no spool.
    """
    done = True
    for folder in folders:
        if not (folder / "events.jsonl").is_file():
            raise UserError(f"'{folder}' is not a spool folder: it has no events.jsonl.")
        spool = Spool(folder)
        before, reason = spool.pending, ""
        try:
            spool.replay(uri)
        except (ServerAway, UserError) as error:
            reason = f" ({error})"
        left = spool.pending
        done = done and not left
        where = f"run {spool.run_id}" if spool.run_id else "no run there yet"
        print(f"{spool.folder.name}: sent {before - left} events, {left} left{reason}; {where}.")
    return done


def send_spooled(root: Path, uri: str) -> None:
    """Upload what earlier runs of the store at `root` could not send; what cannot be sent now stays where it is."""
    for file in sorted(root.glob("offline/*/events.jsonl")):
        with contextlib.suppress(ServerAway, UserError):
            Spool(file.parent).replay(uri)


def _write_json(path: Path, value: Any) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(value), encoding="utf-8")
    os.replace(temporary, path)
