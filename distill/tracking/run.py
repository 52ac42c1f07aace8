"""Run: everything that a job tells MLflow, in a form that cannot stop the job."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from distill.config import TrackingConfig
from distill.errors import UserError
from distill.tracking import environment
from distill.tracking.client import (
    Missing,
    Refused,
    ServerAway,
    arrive,
    connect,
    log,
    patiently,
    redact,
    store_root,
    tracking_uri,
    work_dir,
)
from distill.tracking.events import (
    MAX_PARAM,
    MAX_TAG,
    Event,
    above,
    apply,
    create,
    key_text,
    last_steps,
    now_ms,
    value_text,
)
from distill.tracking.offline import Spool

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROBE_SECONDS = 60.0  # an offline run looks for its server at most this often


def guarded(method: Callable) -> Callable:
    """Tracking never kills training: whatever goes wrong in the method becomes one warning."""

    @functools.wraps(method)
    def call(self, *args, **kwargs):
        try:
            return method(self, *args, **kwargs)
        except Exception as error:
            self._warn_once(f"Tracking: {method.__name__} failed and was skipped ({type(error).__name__}: {error}).")
            return None

    return call


class Run:
    """One MLflow run, as a context manager; made by `Run.start`.

    Attributes: `id`, the run's MLflow id (`offline-<12 hex>` until a run that began without its server has reached
    it; both names find it then); `work`, the local folder of its checkpoints.
    """

    def __init__(self, tracking: TrackingConfig):
        self._tracking = tracking
        self._root = store_root(tracking)
        self._run_id: str | None = None  # on the server
        self._spool: Spool | None = None
        self._offline = False
        self._floor: dict[str, int] = {}  # per metric, the last step logged before a resume
        self._monitor = None
        self._last_probe = 0.0
        self._warned: set[str] = set()
        self._finished = False
        self._lock = threading.RLock()

    @classmethod
    def start(
        cls,
        tracking: TrackingConfig,
        *,
        job: str,
        run_name: str,
        params: dict[str, Any],
        config_yaml: str,
        tags: dict[str, str],
        resume_id: str | None = None,
    ) -> Run:
        """Open a new run, or reopen `resume_id`, and log what it is: parameters, config file, environment.

        `job` is teacher, student or evaluate. With a resumed run, metric points at steps that it already has are
        dropped from here on. If the server is away the run starts offline. Raises UserError for an impossible URI, a
        deleted experiment, or a `resume_id` that the store does not have.
        """
        tracking_uri(tracking)
        run = cls(tracking)
        if resume_id is None:
            known = {"distill.job": job, "distill.recipe": params.get("name", "")}
            run._open(run_name or f"{job}-{time.strftime('%Y%m%d-%H%M%S')}", {**known, **tags})
        else:
            run._reopen(resume_id)
        run.work = work_dir(tracking, run.id)
        run._describe(params, config_yaml, resumed=resume_id is not None)
        run._watch(resumed=resume_id is not None)
        return run

    @property
    def id(self) -> str:
        return self._run_id or self._spool.folder.name

    @property
    def online(self) -> bool:
        return not self._offline

    # ------------------------------------------------------------------------------------------------ logging

    @guarded
    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        values = {key_text(key): float(value) for key, value in metrics.items()}
        event = above(self._floor, {"op": "metrics", "values": values, "step": int(step), "time": now_ms()})
        if event["values"]:
            self._send(event)

    @guarded
    def log_params(self, params: dict[str, Any]) -> None:
        """Parameters cannot change: one that has another value already is left, and named in a tag."""
        values = {key_text(key): redact(value_text(value, MAX_PARAM)) for key, value in params.items()}
        self._send({"op": "params", "values": values})

    @guarded
    def set_tags(self, tags: dict[str, Any]) -> None:
        self._send({"op": "tags", "values": _tag_texts(tags)})

    @guarded
    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Store a file, or a folder with all its files, under `folder` of the run's artifacts."""
        path = Path(path).resolve()
        if not path.exists():
            raise FileNotFoundError(f"no such file: {path}")
        self._send({"op": "artifact", "file": str(path), "folder": folder})

    @guarded
    def log_dict(self, obj: Any, file: str) -> None:
        """Store a JSON file; `file` is its path among the artifacts, as below."""
        with self._temporary(file) as path:
            path.write_text(json.dumps(obj, indent=2, ensure_ascii=False), encoding="utf-8")

    @guarded
    def log_text(self, text: str, file: str) -> None:
        with self._temporary(file) as path:
            path.write_text(text, encoding="utf-8")

    @guarded
    def log_figure(self, fig: Figure, file: str) -> None:
        """Store a matplotlib figure as PNG; the figure stays open."""
        with self._temporary(file) as path:
            fig.savefig(path, format="png")

    @guarded
    def log_dataset(self, name: str, digest: str, folder: str | Path, context: str) -> None:
        """Record a data set as an input; `context` is its role (training, validation), `digest` is cut at 36."""
        self._send({"op": "dataset", "name": name, "digest": digest, "source": str(folder), "context": context})

    @guarded
    def register(
        self, name: str, folder: str, aliases: list[str], description: str = "", tags: dict[str, Any] | None = None
    ) -> str | None:
        """Enter the artifacts under `folder` in the model registry as a version of `name` that `aliases` point to.

        Registering the same folder of the same run again updates its version. Returns the version; None if the run
        is offline (the upload does it) or the registry refused.
        """
        event = {"op": "register", "name": name, "folder": folder, "aliases": list(aliases)}
        return self._send({**event, "description": description, "tags": _tag_texts(tags or {})})

    # ------------------------------------------------------------------------------------------------ the end

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._finished:  # whoever ended it has said how
            return
        if error is None:
            self.finish("FINISHED")
        elif isinstance(error, Exception):
            self.set_tags({"error": f"{type(error).__name__}: {error}"})
            self.finish("FAILED")
        else:  # Ctrl-C, SystemExit from a signal handler
            self.finish("KILLED")

    @guarded
    def finish(self, status: str = "FINISHED") -> None:
        """End the run as FINISHED, FAILED or KILLED; only the first call counts. Offline: one last try to upload."""
        if self._finished:
            return
        self._finished = True
        if self._monitor is not None:
            self._monitor.finish()
        self._send({"op": "finish", "status": status, "time": now_ms()})
        if self._offline:
            self._probe(force=True)
        if self._offline:
            log.warning("Run %s is still only on this machine; upload it with: %s", self.id, self._spool.command())

    # ------------------------------------------------------------------------------------------------ inside

    def _open(self, name: str, tags: dict[str, Any]) -> None:
        key = uuid.uuid4().hex[:12]
        event = {"op": "start", "name": name, "tags": _tag_texts(tags), "time": now_ms(), "key": key}
        try:
            self._run_id = patiently(lambda: create(arrive(self._tracking), self._tracking, event))
        except ServerAway as away:
            self._go_offline(f"offline-{key}", away)
            self._spool.append(event)
        except Refused as refusal:
            raise UserError(f"The tracking store does not accept run '{name}': {refusal}.") from None

    def _reopen(self, run_id: str) -> None:
        self._spool = Spool.find(self._root, run_id)
        self._run_id = self._spool.run_id if self._spool else run_id
        try:
            if self._spool:
                patiently(lambda: self._spool.replay(tracking_uri(self._tracking)))
                self._run_id = self._spool.run_id
            self._run_id, self._floor = patiently(lambda: self._on_server(self._run_id))
        except ServerAway as away:
            if self._spool is None and run_id.startswith("offline-"):
                raise UserError(f"There is no run '{run_id}' in {self._root / 'offline'}.") from None
            self._go_offline(run_id, away)
            self._floor = self._spool.last_steps()
        except Refused:
            raise UserError(f"There is no run '{run_id}' in {redact(tracking_uri(self._tracking))}.") from None
        self._send({"op": "reopen"})

    def _on_server(self, run_id: str) -> tuple[str, dict[str, int]]:
        from distill.tracking.lookup import by_key

        client = arrive(self._tracking)
        if run_id.startswith("offline-"):  # uploaded from a machine whose spool is not here
            found = by_key(client, run_id.removeprefix("offline-"))
            if found is None:
                raise Missing(run_id)
            run_id = found
        return run_id, last_steps(client, run_id)

    @guarded
    def _describe(self, params: dict[str, Any], config_yaml: str, resumed: bool) -> None:
        self.log_params(params)
        self.log_text(redact(config_yaml), "config_resumed.yaml" if resumed else "config.yaml")
        found = environment.collect()
        self.log_dict(found, "environment_resumed.json" if resumed else "environment.json")
        self.set_tags({"distill.resumed": time.strftime("%F %T")} if resumed else environment.as_tags(found))

    @guarded
    def _watch(self, resumed: bool) -> None:
        """Let MLflow record load and memory of the machine, in a thread of its own."""
        wanted = os.environ.get("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true").lower() not in ("false", "0")
        if not wanted or self._offline or not importlib.util.find_spec("psutil"):
            return
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        if self._monitor is not None:
            self._monitor.finish()
        self._monitor = SystemMetricsMonitor(
            self._run_id, resume_logging=resumed, tracking_uri=tracking_uri(self._tracking)
        )
        self._monitor.start()

    def _send(self, event: Event) -> str | None:
        with self._lock:
            if not self._offline:
                try:
                    return patiently(lambda: apply(connect(self._tracking), self._run_id, event))
                except (ServerAway, Missing) as away:  # Missing: the server came back without its database
                    self._go_offline(self._run_id, away)
                except Refused as refusal:
                    self._warn_once(f"The tracking store refused '{event['op']}': {refusal}.")
                    return None
            self._spool.append(event)
            self._probe()
            return None

    def _go_offline(self, name: str, reason: Exception) -> None:
        if self._spool is None:
            self._spool = Spool.make(self._root, name, self._tracking, self._run_id)
        self._offline = True
        self._last_probe = time.monotonic()
        log.warning(
            "The tracking store %s is away (%s). This run is now logged to %s; if it ends before the store is back, "
            "upload it with: %s",
            redact(tracking_uri(self._tracking)),
            reason,
            self._spool.folder,
            self._spool.command(),
        )

    def _probe(self, force: bool = False) -> None:
        """See whether the server is back; if so send it the spool and go online."""
        if not force and time.monotonic() - self._last_probe < PROBE_SECONDS:
            return
        self._last_probe = time.monotonic()
        try:
            self._spool.replay(tracking_uri(self._tracking))
        except ServerAway:
            return
        except UserError as error:
            self._warn_once(str(error))
            return
        self._run_id = self._spool.run_id
        self._offline = False
        log.warning("The tracking store is back; run %s is complete there.", self._run_id)
        if not self._finished:
            self._watch(resumed=True)

    @contextmanager
    def _temporary(self, file: str) -> Iterator[Path]:
        """A path to write to, which becomes the artifact `file`."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / Path(file).name
            yield path
            parent = Path(file).parent.as_posix()
            self.log_artifact(path, "" if parent == "." else parent)

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            log.warning("%s", message)


class NullRun:
    """The same methods, doing nothing: for all processes of a parallel run but the first."""

    def __init__(self, work: Path, id: str = ""):
        self.work = work
        self.id = id

    online = True

    def __enter__(self) -> NullRun:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _nothing(self, *_: Any, **__: Any) -> None:
        pass

    log_metrics = log_params = set_tags = log_artifact = log_dict = log_text = log_figure = _nothing
    log_dataset = register = finish = _nothing


def _tag_texts(tags: dict[str, Any]) -> dict[str, str]:
    return {key_text(key): value_text(value, MAX_TAG) for key, value in tags.items()}
