"""A search of plans as one run of MLflow: every trial a row of its table, the best so far a curve, plots as a page.

The page is one HTML file that needs no server: the best MFU by trial, which axes matter, and the Pareto front.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna

from tasks.search import OBJECTIVES, OptunaSearch
from tasks.tracking import FAILED, FINISHED, MAX_VALUE, Server

log = logging.getLogger("stepvideo.search")

AXES = {"mfu": "MFU", "headroom": "GB left of a GPU", "parts": "kinds of parallelism"}


class SearchRun:
    """The MLflow run of a study; a study that goes on goes on in its run. Without a server nothing is told.

    MLflow may fail, the search goes on: the first failure is logged, and what was told stays.
    """

    def __init__(self, search: OptunaSearch, server: Server | None, params: Mapping[str, Any]) -> None:
        self.search, self.server, self.run_id = search, server, ""
        if server is None:
            return
        study = search.study
        try:
            known = study.user_attrs.get("mlflow", {})
            if known.get("uri") == server.uri:
                self.run_id = known["run_id"]
            else:
                self.run_id = self._create(server, params)
                study.set_user_attr("mlflow", {"uri": server.uri, "run_id": self.run_id})
        except Exception as e:
            self._broken(e)

    def _create(self, server: Server, params: Mapping[str, Any]) -> str:
        from mlflow.entities import Param

        tags = {"mlflow.runName": f"search {self.search.name}", "kind": "search"}
        run_id = server.client.create_run(server.experiment_id, tags=tags).info.run_id
        rows = [Param(k, str(v)[:MAX_VALUE]) for k, v in params.items()]
        server.client.log_batch(run_id, params=rows)
        return run_id

    def trial(self, number: int) -> None:
        """The best MFU after this trial."""
        if self.server and self.run_id:
            try:
                self.server.client.log_metric(self.run_id, "best_mfu", self.search.curve()[-1], step=number)
            except Exception as e:
                self._broken(e)

    def close(self, summary: Mapping[str, Any], page: Path | None, error: BaseException | None = None) -> None:
        """The table of trials, the summary's numbers, the page; ends the run."""
        if not (self.server and self.run_id):
            return
        try:
            client = self.server.client
            client.log_dict(self.run_id, table(self.search), "trials.json")
            client.log_dict(self.run_id, dict(summary), "summary.json")
            if page:
                client.log_artifact(self.run_id, str(page))
            client.set_terminated(self.run_id, FINISHED if error is None else FAILED)
        except Exception as e:
            self._broken(e)

    def _broken(self, error: Exception) -> None:
        log.warning("MLflow failed, the search goes on without it: %s: %s", type(error).__name__, error)
        self.server = None


def table(search: OptunaSearch) -> list[dict[str, Any]]:
    """One row a trial: its point and what it was worth."""
    return [{"trial": i, **t.user_attrs["point"], **t.user_attrs["outcome"]} for i, t in enumerate(search.trials)]


def write_page(search: OptunaSearch, path: Path) -> Path:
    """Plots to `path`; those that need more trials than there are, are left out."""
    import plotly.graph_objects as go

    from stepvideo.storage import write_atomic

    curve = go.Figure(go.Scatter(y=search.curve(), mode="lines", line_shape="hv"))
    curve.update_layout(title="best MFU that fits, by trial", xaxis_title="trial", yaxis_title="MFU")
    figures = [curve]
    names = search.method.objectives
    if len(search.trials) >= 10:
        figures += [_importance(search, i, name) for i, name in enumerate(names)]
    if len(names) in (2, 3):
        figures.append(optuna.visualization.plot_pareto_front(search.study, target_names=[AXES[n] for n in names]))
    parts = [f.to_html(full_html=False, include_plotlyjs=not i) for i, f in enumerate(figures)]
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>search {search.name}</title><body>'
    write_atomic(path, head + "".join(parts) + "</body></html>\n")
    return path


def _importance(search: OptunaSearch, objective: int, name: str) -> Any:
    sign = -1.0 if OBJECTIVES[name] == "maximize" else 1.0  # what is low is good, and it warns of that
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=UserWarning)
        figure = optuna.visualization.plot_param_importances(
            search.study, target=lambda t: sign * t.values[objective], target_name=AXES[name]
        )
    figure.update_layout(title=f"how much each axis matters for {AXES[name]}")
    return figure
