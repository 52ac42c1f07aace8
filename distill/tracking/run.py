"""Run: everything that a job logs to MLflow, in a form that cannot stop the job."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import shlex
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from distill.config import TrackingConfig
from distill.errors import UserError
from distill.tracking import environment, offline, records, registry
from distill.tracking.client import (
    Missing,
    Refused,
    ServerAway,
    arrive,
    attempt,
    log,
    make_store,
    patiently,
    redact,
    tracking_uri,
    work_dir,
)
from distill.tracking.lookup import by_key, offline_folders
from distill.tracking.records import MAX_PARAM, key_text, now_ms, tag_texts, value_text

PROBE_SECONDS = 60.0  # an offline run looks for its server at most this often


class Lost(Exception):
    """Neither the server nor the local disk takes what is logged."""


def guarded(method: Callable) -> Callable:
    """Tracking never kills training: whatever goes wrong in the method becomes one warning."""

    @functools.wraps(method)
    def call(self, *args, **kwargs):
        try:
            return method(self, *args, **kwargs)
        except Lost as lost:
            self._warn_once(f"{lost}. What this run logs is lost until one of them takes it again.")
        except Exception as error:
            self._warn_once(f"Tracking: {method.__name__} failed and was skipped ({type(error).__name__}: {error}).")
        return None

    return call


class Run:
    """One MLflow run, as a context manager; made by `Run.start`.

    Attributes: `id`, the run's MLflow id (`offline-<12 hex>` until a run that began without its server has reached
    it; both names find it then); `work`, the local folder of its checkpoints.
    """

    work: Path

    def __init__(self, tracking: TrackingConfig):
        self._tracking = tracking
        self._root = make_store(tracking)
        self.work = self._root  # until `start` has its id
        self._run_id = ""  # on the server; empty where that has never seen the run
        self._name = ""  # `offline-<key>` of a run that began offline
        self._start: dict[str, Any] = {}  # arguments of records.create
        self._away = False  # the server; `_local` is None then where the local store cannot be written either
        self._reason: Exception | None = None  # why it is away
        self._local: offline.Local | None = None
        self._unknown_floor = False  # resumed without its server
        self._floor: dict[str, int] = {}  # per metric, the last step logged before a resume
        self._monitor: Any = None
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
        store that cannot be written to or is damaged, a deleted experiment, or a `resume_id` that the store does not
        have.
        """
        tracking_uri(tracking)
        run = cls(tracking)
        try:
            if resume_id is None:
                known = {"distill.job": job, "distill.recipe": params.get("name", "")}
                run._open(run_name or f"{job}-{time.strftime('%Y%m%d-%H%M%S')}", {**known, **tags})
            else:
                run._reopen(resume_id)
        except Lost as lost:
            raise UserError(f"{lost}.") from None
        run.work = work_dir(tracking, run.id)
        run._describe(params, config_yaml, resumed=resume_id is not None)
        run._watch(resumed=resume_id is not None)
        return run

    @property
    def id(self) -> str:
        """The run's id in MLflow, or `offline-...` before its server has seen it."""
        return self._run_id or self._name

    # ------------------------------------------------------------------------------------------------ logging

    @guarded
    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        """One point of each metric, stored with 7 significant digits."""
        values = {key_text(key): records.rounded(float(value)) for key, value in metrics.items()}
        values = {key: value for key, value in values.items() if key not in self._floor or step > self._floor[key]}
        if values:
            self._log(records.log_metrics, values, int(step), now_ms())

    @guarded
    def log_params(self, params: dict[str, Any]) -> None:
        """Parameters cannot change: one that has another value already is left, and named in a tag."""
        self._log(
            records.log_params, {key_text(key): redact(value_text(value, MAX_PARAM)) for key, value in params.items()}
        )

    @guarded
    def set_tags(self, tags: dict[str, Any]) -> None:
        """Set tags, over those that are there."""
        self._log(records.set_tags, tag_texts(tags))

    @guarded
    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Store a file, or a folder with all its files, under `folder` of the run's artifacts."""
        path = Path(path).resolve()
        if not path.exists():
            raise FileNotFoundError(f"no such file: {path}")
        self._log(records.log_artifact, path, folder)

    @guarded
    def log_dict(self, obj: Any, file: str) -> None:
        """Store a JSON file; `file` is its path among the artifacts, as below."""
        with self._temporary(file) as path:
            path.write_text(json.dumps(obj, indent=2, ensure_ascii=False), encoding="utf-8")

    @guarded
    def log_text(self, text: str, file: str) -> None:
        """Store a text file; `file` is its path among the artifacts."""
        with self._temporary(file) as path:
            path.write_text(text, encoding="utf-8")

    @guarded
    def log_dataset(self, name: str, digest: str, folder: str | Path, context: str) -> None:
        """Record a data set as an input; `context` is its role (training, validation), `digest` is cut at 36."""
        self._log(records.log_dataset, name, digest, str(folder), context)

    @guarded
    def register(self, name: str) -> str | None:
        """Enter the run's model (artifact folder `model`) in the model registry as a version of `name`: registry.py.

        The same run again updates its version. Returns the version; None if the registry refused, or the run is offline
        (then it is entered when the run is copied to its server).
        """
        found = self._log(registry.enter, name)
        return found[0] if found and not self._away else None

    # ------------------------------------------------------------------------------------------------ the end

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._finished:  # `finish` was called, with a status
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
        self._log(records.finish, status, now_ms())
        if self._away:
            self._probe(force=True)
        if self._away and self._local is not None:
            self._local.lock.release()
            log.warning("Run %s is still only on this machine; send it with: %s", self.id, self._command())

    # ------------------------------------------------------------------------------------------------ inside

    def _open(self, name: str, tags: dict[str, Any]) -> None:
        key = uuid.uuid4().hex[:12]
        self._name = f"offline-{key}"
        self._start = {"key": key, "name": name, "tags": tag_texts(tags), "time": now_ms()}
        try:
            patiently(lambda: arrive(self._tracking))
            self._run_id = patiently(lambda: records.create(self._tracking, **self._start))
        except ServerAway as away:
            self._go_offline(away)
        except Refused as refusal:
            raise UserError(f"The tracking store does not accept run '{name}': {refusal}.") from None

    def _reopen(self, run_id: str) -> None:
        if run_id.startswith("offline-"):
            self._name, run_id = run_id, offline.sent_as(self._root, run_id)
        self._run_id = run_id
        key = run_id or self._name.removeprefix("offline-")
        self._start = {"key": key, "name": self.id, "tags": {}, "time": now_ms()}
        try:
            sent, _ = patiently(lambda: offline.copy_all(self._root, self.id, tracking_uri(self._tracking)))
            self._run_id = sent or self._run_id
            self._run_id, self._floor = patiently(self._on_server)
        except ServerAway as away:
            if not self._run_id and not offline_folders(self._root, self._name):
                raise UserError(f"There is no run '{self._name}' in {self._root / 'offline'}.") from None
            self._unknown_floor = True
            self._go_offline(away)
        except Refused:
            raise UserError(f"There is no run '{self.id}' in {redact(tracking_uri(self._tracking))}.") from None
        self._log(records.reopen)

    def _on_server(self) -> tuple[str, dict[str, int]]:
        client = arrive(self._tracking)
        run_id = self._run_id or by_key(client, self._name.removeprefix("offline-"))  # sent from another machine
        if run_id is None:
            raise Missing(self._name)
        return run_id, records.last_steps(self._tracking, run_id)

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
        if not wanted or self._away or not importlib.util.find_spec("psutil"):
            return
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        if self._monitor is not None:
            self._monitor.finish()
        self._monitor = SystemMetricsMonitor(
            self._run_id, resume_logging=resumed, tracking_uri=tracking_uri(self._tracking)
        )
        self._monitor.start()

    def _log(self, write: Callable, *args: Any) -> Any:
        """`write(place, run id, *args)`, a function of records.py or of its kind: to the server, else to the local
        store.
        """
        with self._lock:
            if self._away:
                self._probe()
            if not self._away:
                try:
                    return patiently(lambda: write(self._tracking, self._run_id, *args))
                except (ServerAway, Missing) as away:  # Missing: the server came back without its database
                    self._go_offline(away)
                except Refused as refusal:
                    self._warn_once(f"The tracking store refused '{write.__name__}': {refusal}.")
                    return None
            if self._local is None:
                self._go_offline(self._reason)
            try:
                attempt(lambda: write(self._local.place, self._local.run_id, *args))
            except ServerAway as failure:
                raise Lost(f"{self._why()}, and {self._local.folder} cannot be written ({failure})") from None
            return None

    def _go_offline(self, reason: Exception) -> None:
        """Log to a local store from here on. Raises Lost where there can be none."""
        self._away, self._reason, self._last_probe = True, reason, time.monotonic()
        start = {**self._start, "tags": {}} if self._run_id else self._start
        try:
            self._local = attempt(
                lambda: offline.begin(self._tracking, self.id, self._run_id, start, resumed=self._unknown_floor)
            )
        except (ServerAway, UserError) as failure:
            raise Lost(f"{self._why()}, and nothing can be written to {self._root / 'offline'} ({failure})") from None
        log.warning(
            "%s. This run is now logged to %s; if it ends before the store is back, send it with: %s",
            self._why(),
            self._local.folder,
            self._command(),
        )

    def _why(self) -> str:
        return f"The tracking store {redact(tracking_uri(self._tracking))} is away ({self._reason})"

    def _command(self) -> str:
        return f"python -m distill.tracking upload {self.id} --store {shlex.quote(str(self._root))}"

    def _probe(self, force: bool = False) -> None:
        """See whether the server is back; if so send it what waits and go online."""
        if not force and time.monotonic() - self._last_probe < PROBE_SECONDS:
            return
        self._last_probe = time.monotonic()
        if (
            self._local is None
        ):  # nothing could be kept, so nothing is sent: the next write shows whether the server takes it
            self._away = False
            return
        folder = self._local.folder
        try:
            sent, floor = offline.copy_all(self._root, self.id, tracking_uri(self._tracking), held=folder)
        except ServerAway:
            return
        except UserError as error:
            self._warn_once(str(error))
            return
        self._run_id = sent or self._run_id
        self._floor |= floor
        self._away, self._local, self._unknown_floor = False, None, False
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

    def __enter__(self) -> NullRun:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _nothing(self, *_: Any, **__: Any) -> None:
        pass

    log_metrics = log_params = set_tags = log_artifact = log_dict = log_text = _nothing
    log_dataset = register = finish = _nothing
