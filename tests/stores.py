"""A store for the tests of distill.tracking, and a server that goes away; building a database takes seconds, so there
is one.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import distill.tracking.client as client
from distill import metrics
from distill import tracking as t
from distill.config import TrackingConfig
from distill.tracking import lookup


@pytest.fixture(scope="session")
def root(tmp_path_factory) -> Path:
    """Its path has a space, an accent, and characters that mean something in a URI."""
    return tmp_path_factory.mktemp("my é store") / "50%25 #1?" / "mlruns"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(client, "PATIENCE", 0.0)
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def config(root, request) -> TrackingConfig:
    return TrackingConfig(store=str(root), experiment=request.node.name)


@pytest.fixture
def outage(monkeypatch):
    """`outage.begin()`: every call to the store fails, as when its server is gone; `outage.end()`: it is back."""
    real = client._client

    def gone(uri, pid):
        if "/offline/" in uri:  # the local store of a run whose server is away
            return real(uri, pid)
        raise ConnectionError("the server is gone")

    def begin():
        monkeypatch.setattr(client, "_client", gone)

    def end():
        monkeypatch.setattr(client, "_client", real)

    return SimpleNamespace(begin=begin, end=end)


def start(config, resume_id=None, **changes) -> t.Run:
    given = dict(
        job="student", run_name="mnv3 s0", params={"name": "kd", "train.lr": 0.002}, config_yaml="a: 1\n", tags={}
    )
    return t.Run.start(config, **{**given, **changes}, resume_id=resume_id)


def log_report(run: t.Run, errors) -> None:
    """A report of the run, with these NME in percent of its validation images."""
    labels = np.zeros((len(errors), 68, 2))
    report = metrics.evaluate(labels + np.reshape(errors, (-1, 1, 1)) * [1, 0], labels, np.array([100, 100]))
    run.log_dict(report.to_dict(), "evaluation/report.json")


def online(run: t.Run) -> bool:
    """Whether what is logged goes to the store itself, not into a local one until the server is back."""
    return not run._away


def alias_holder(config: TrackingConfig, name: str, alias: str) -> tuple[str, str] | None:
    """(version, run id) that an alias of a registered model points to, or None."""
    found = lookup.version_by_alias(client.connect(config), name, alias)
    return (str(found.version), found.run_id) if found else None


def history(config, run_id, key="loss"):
    return t.metric_history(config, run_id, key)
