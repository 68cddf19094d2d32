"""Run the nodes of a cascade in order, each through a function that makes its artifact. Knows nothing of Prefect."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from flows.graph import Node
from stepvideo.artifact import Artifact
from tasks.stages import Outcome

RunOne = Callable[[Node, Mapping[str, Artifact]], Outcome]


def execute(nodes: list[Node], run_one: RunOne, concurrency: int, cancel: threading.Event) -> dict[str, Outcome]:
    """{node name: outcome}. At the first failure nothing more is started, and what runs is awaited, then it is raised.

    Args:
        run_one: called with a node and the artifacts of its inputs by the name of their stage; in the calling thread if
            `concurrency` is 1, else in threads that see the caller's context variables.
        cancel: set when the caller is interrupted, so that `run_one` in other threads stops too.
    """
    done: dict[str, Outcome] = {}

    def inputs(node: Node) -> dict[str, Artifact]:
        return {name: done[name].artifact for name in node.inputs.values()}

    if concurrency == 1:
        for node in nodes:
            done[node.name] = run_one(node, inputs(node))
        return done

    todo = {n.name: n for n in nodes}
    running: dict[Future[Outcome], str] = {}
    failed: BaseException | None = None
    with ThreadPoolExecutor(concurrency, thread_name_prefix="stage") as pool:
        try:
            while running or (todo and not failed):
                ready = [n for n in todo.values() if all(s in done for s in n.inputs.values())]
                for node in ready[: 0 if failed else concurrency - len(running)]:
                    del todo[node.name]
                    context = contextvars.copy_context()
                    running[pool.submit(context.run, run_one, node, inputs(node))] = node.name
                for future in wait(running, timeout=0.5, return_when=FIRST_COMPLETED).done:
                    name = running.pop(future)
                    if error := future.exception():
                        failed = failed or error
                    else:
                        done[name] = future.result()
        except BaseException:
            cancel.set()
            raise
    if failed:
        raise failed
    return done
