"""The catalogue agrees with the report, and evidence leads to the right entry of it."""

from __future__ import annotations

import pytest

from stepvideo.mind.classify import Finding, from_exit, from_kernel, from_output, from_snapshot, from_state, root_cause
from stepvideo.mind.cluster import NodeState
from stepvideo.mind.faults import CATALOGUE, TABLE_4, XID, Blame, Category, Repair, escalation


def test_table_4_adds_up_as_the_report_says() -> None:
    """86.2 % fatal, 13.8 % not; 18 unexpected restarts of which 7 are of hardware (Table 5: 0.037 of 0.095)."""
    fatal = sum(n for name, n in TABLE_4.items() if CATALOGUE[name].fatal)
    total = sum(TABLE_4.values())
    assert (total, round(100 * fatal / total, 1)) == (29, 86.2)
    hardware = sum(n for name, n in TABLE_4.items() if CATALOGUE[name].fatal and CATALOGUE[name].blame == Blame.NODE)
    assert hardware == 7 and round(hardware / 18, 3) == round(0.037 / 0.095, 3)
    categories = {name: CATALOGUE[name].category for name in TABLE_4}
    assert categories == {
        **{"GPU_DBE_ERROR": Category.GPU, "GPU_LOCKED": Category.GPU, "LINK_DOWN": Category.NETWORK},
        **{"NODE_SHUTDOWN": Category.HOST, "SOFTWARE_FAULT": Category.SOFTWARE, "CUDA_OOM": Category.SOFTWARE},
        "NON_FATAL": Category.HARDWARE,
    }


def test_every_fault_counts_as_a_row_of_the_table_and_finer_ones_agree_with_theirs() -> None:
    for name, fault in CATALOGUE.items():
        assert name == fault.name and fault.about and fault.source
        assert fault.row in TABLE_4 or fault.symptom
        assert fault.row == "NON_FATAL" or fault.fatal, name
        assert fault.blame == Blame.NODE or fault.repair in (Repair.USER_CODE, Repair.RESTART_JOB, Repair.NONE), name
    assert set(XID.values()) <= set(CATALOGUE)


def test_repairs_escalate_to_replacement_and_never_into_users_code() -> None:
    for fault in CATALOGUE.values():
        repair, tried = fault.repair, []
        while repair not in tried:
            tried.append(repair)
            repair = escalation(repair)
        assert tried[-1] in (Repair.REPLACE, Repair.USER_CODE)


@pytest.mark.parametrize(
    "line, name",
    [
        ("NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', GPU has fallen off the bus.", "GPU_LOST"),
        ("NVRM: Xid (PCI:0000:18:00): 48, An uncorrectable double bit error (DBE) has been detected", "GPU_DBE_ERROR"),
        ("NVRM: Xid (PCI:0000:18:00): 63, Row Remapper: New row marked for remapping", "GPU_REMAP_PENDING"),
        ("NVRM: Xid (PCI:0000:18:00): 64, Row Remapper: failed", "GPU_REMAP_FAILED"),
        ("NVRM: Xid (PCI:0000:18:00): 94, Contained: SM (0x1). RST: No", "GPU_ECC_CONTAINED"),
        ("NVRM: Xid (PCI:0000:18:00): 95, Uncontained: LTC TAG", "GPU_ECC_UNCONTAINED"),
        ("NVRM: Xid (PCI:0000:9a:00): 119, Timeout after 6s of waiting for RPC response from GPU0 GSP", "GPU_LOCKED"),
        ("NVRM: Xid (PCI:0000:9a:00): 74, NVLink: fatal error detected on link 3", "NVLINK_DOWN"),
        ("NVRM: Xid (PCI:0000:9a:00): 31, pid=211, MMU Fault", "GPU_PROGRAM_ERROR"),
        ("mlx5_core 0000:5e:00.0 ens2f0np0: Link down", "LINK_DOWN"),
        ("bnxt_en 0000:41:00.0 ens5: NIC Link is Down", "LINK_DOWN"),
        ("oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null)", "HOST_OOM"),
        ("EXT4-fs (sda1): Remounting filesystem read-only", "DISK_ERROR"),
        ("nvidia-nvswitch3: SXid (PCI:0000:86:00.0): 20034, Fatal, Link 30 LTSSM Fault", "NVSWITCH_ERROR"),
    ],
)
def test_lines_of_the_kernels_log(line: str, name: str) -> None:
    assert [f.name for f in from_kernel([line], "n7")] == [name]


@pytest.mark.parametrize(
    "line",
    [
        "NVRM: Xid (PCI:0000:9a:00): 999, nobody knows",
        "mlx5_core 0000:5e:00.0 ens2f0np0: Link up",
        "NVRM: loading NVIDIA UNIX x86_64 Kernel Module",
        "nvidia-nvswitch3: SXid (PCI:0000:86:00.0): 12028, Non-fatal, Link 30 egress non-posted PRIV error",
        "pcieport 0000:00:01.0: PCIe Bus Error: severity=Uncorrected (Non-Fatal), type=Transaction Layer",
        "usb 1-1: new high-speed USB device number 2 using xhci_hcd",
    ],
)
def test_other_lines_say_nothing(line: str) -> None:
    assert from_kernel([line]) == []


def test_output_and_the_cause_behind_its_symptoms() -> None:
    """A rank that lost its peer is not the one to blame."""
    text = """
    [rank3] Watchdog caught collective operation timeout: WorkNCCL(OpType=ALLREDUCE) ran for 600000 ms
    RuntimeError: Connection closed by peer [10.0.0.3]:4111
Traceback (most recent call last):
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB"""
    found = from_output(text, "n1")
    assert {f.name for f in found} == {"COLLECTIVE_TIMEOUT", "PEER_LOST", "SOFTWARE_FAULT", "CUDA_OOM"}
    cause = root_cause(found)
    assert cause and cause.name == "CUDA_OOM"
    node = Finding("GPU_LOST", "Xid 79", "n3")
    assert root_cause([*found, node]) == node and root_cause([]) is None


def test_exits() -> None:
    assert not from_exit(0) and not from_exit(75) and not from_exit(1, "CANCELLED") and not from_exit(15, "PREEMPTED")
    assert [f.name for f in from_exit(137, "FAILED")] == ["PROCESS_KILLED"]
    assert [f.name for f in from_exit(-11)] == ["SOFTWARE_FAULT"]
    assert [f.name for f in from_exit(1, "NODE_FAIL", "n2")] == ["NODE_SHUTDOWN"]
    assert [f.name for f in from_exit(0, "OUT_OF_MEMORY")] == ["HOST_OOM"]
    assert [f.node for f in from_state("n1", NodeState.DOWN)] == ["n1"] and not from_state("n1", NodeState.DRAINED)


def test_a_snapshot_of_a_healthy_node_has_no_fault_and_each_ill_one_its_own() -> None:
    gpu = {"index": 0, "power": 650.0, "throttle": [], "ecc_corrected": 12, "ecc_uncorrected": 0, "pcie_width": 16}
    port = {"state": "ACTIVE", "was_active": True, "downs": 0, "traffic": 1e9}
    well = {"node": "n1", "gpus": [gpu | {"pcie_width_max": 16}], "rdma": {"mlx5_0/1": port}, "kernel": []}
    well |= {"disk_free": {"/": 0.4}, "clock_s": 0.02}
    assert from_snapshot(well) == []
    for change, name in (
        ({"gpus": [gpu | {"throttle": ["hw_thermal"]}]}, "GPU_THROTTLED"),
        ({"gpus": [gpu | {"ecc_uncorrected": 1}]}, "GPU_DBE_ERROR"),
        ({"gpus": [gpu | {"remap_pending": 1}]}, "GPU_REMAP_PENDING"),
        ({"gpus": [gpu | {"remap_pending": 1, "remap_failed": 1}]}, "GPU_REMAP_FAILED"),
        ({"gpus": [gpu | {"pcie_width": 8, "pcie_width_max": 16}]}, "PCIE_DEGRADED"),
        ({"gpus": [{"index": 3, "lost": "GPU is lost"}]}, "GPU_LOST"),
        ({"rdma": {"mlx5_0/1": port | {"state": "DOWN"}}}, "LINK_DOWN"),
        ({"rdma": {"mlx5_0/1": port | {"downs": 3}}}, "LINK_FLAPPING"),
        ({"disk_free": {"/": 0.004}}, "DISK_FULL"),
        ({"clock_s": -40.0}, "CLOCK_SKEW"),
        ({"kernel": [{"age_s": 3, "line": "NVRM: Xid (PCI:0000:3b:00): 79, …"}]}, "GPU_LOST"),
    ):
        assert [(f.name, f.node) for f in from_snapshot(well | change)] == [(name, "n1")]
