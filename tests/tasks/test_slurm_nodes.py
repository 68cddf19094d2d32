"""What scontrol says of nodes and what is asked of it; no Slurm is needed."""

from __future__ import annotations

import subprocess

import pytest

from stepvideo.errors import ConfigError
from stepvideo.mind.cluster import NodeState, Unanswered
from tasks import slurm_nodes
from tasks.slurm_nodes import SlurmNodes

LINE = "NodeName=n1 NodeAddr=127.0.0.1 Port=7001 OS=Linux 6.18 #1 SMP @0  State={state} Partitions=a,b {reason}"


def node(state: str, reason: str = ""):
    text = f"Reason={reason} [root@2026-11-21T21:50:09]" if reason else ""
    return slurm_nodes._node(slurm_nodes._fields(LINE.format(state=state, reason=text)))


@pytest.mark.parametrize(
    ("state", "reason", "expected", "admin"),
    [
        ("IDLE", "", NodeState.UP, False),
        ("MIXED*", "", NodeState.UP, False),
        ("IDLE+DRAIN", "fan = loud, by Bo", NodeState.DRAINED, True),
        ("IDLE+DRAIN", "stepvideo: GPU_LOST Xid 79", NodeState.DRAINED, False),
        ("IDLE+DRAIN", "Kill task failed", NodeState.DRAINED, False),
        ("DOWN+NOT_RESPONDING", "Not responding", NodeState.DOWN, False),
        ("DOWN", "power supply", NodeState.DOWN, True),
        ("IDLE+NOT_RESPONDING", "", NodeState.UNRESPONSIVE, False),
        ("DOWN+DRAIN+REBOOT_ISSUED", "stepvideo: x : reboot issued", NodeState.REBOOTING, False),
        ("MIXED+DRAIN+NOT_RESPONDING", "new DIMM", NodeState.UNRESPONSIVE, True),
        ("IDLE+DRAIN+REBOOT_ISSUED", "new DIMM", NodeState.REBOOTING, True),
        ("IDLE+MAINTENANCE", "", NodeState.UP, True),
        ("FUTURE", "", NodeState.UNKNOWN, False),
    ],
)
def test_states_and_whose_they_are(state: str, reason: str, expected: NodeState, admin: bool) -> None:
    found = node(state, reason)
    assert (found.name, found.state, found.admin, found.reason) == ("n1", expected, admin, reason)
    assert found.partition == "a" and found.partitions == ("a", "b")
    assert found.ours == reason.startswith("stepvideo:") and found.busy == state.startswith("MIXED")


class Said:
    """In place of scontrol."""

    def __init__(self, *answers: tuple[int, str, str]) -> None:
        self.answers, self.asked = list(answers), []

    def __call__(self, command, **_):
        self.asked.append(command[1:])
        code, out, err = self.answers.pop(0)
        return subprocess.CompletedProcess(command, code, out, err)


def test_silence_is_not_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    silent, refusal = (1, "", "slurm_load_node error: Unable to contact slurm controller"), (1, "", "Invalid node name")
    monkeypatch.setattr(subprocess, "run", Said(silent, refusal))
    with pytest.raises(Unanswered):
        SlurmNodes().nodes()
    with pytest.raises(ConfigError, match="Invalid node name"):
        SlurmNodes().drain("n1", "x")


def test_a_node_that_an_admin_has_is_only_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    line = LINE.format(state="IDLE+DRAIN", reason="Reason=fan [bo@2026-11-21T21:50:09]")
    for act in ("drain", "down", "reboot", "move"):
        said = Said((0, line, ""))
        monkeypatch.setattr(subprocess, "run", said)
        assert getattr(SlurmNodes(), act)("n1", "x") is False
        assert said.asked == [["show", "node", "n1", "--oneliner"]]
    monkeypatch.setattr(subprocess, "run", Said((0, line, "")))
    assert SlurmNodes().resume("n1") is False


def test_a_job_is_requeued_without_nodes_and_never_held(monkeypatch: pytest.MonkeyPatch) -> None:
    said = Said((0, "JobId=7 ExcNodeList=n9 \n", ""), (0, "", ""), (0, "", ""))
    monkeypatch.setattr(subprocess, "run", said)
    assert SlurmNodes().requeue("7", ["n2", "n1"])
    assert said.asked[1:] == [["requeue", "7"], ["update", "jobid=7", "excnodelist=n1,n2,n9"]]
    monkeypatch.setattr(subprocess, "run", Said((1, "", "Invalid job id specified")))
    assert not SlurmNodes().requeue("8")
