"""What to do about a job that Slurm refuses; no Slurm is needed."""

from __future__ import annotations

import pytest

from tasks.slurm_refusal import fix_of


@pytest.mark.parametrize(
    ("said", "fix"),
    [
        ("invalid partition specified: trainig; Batch job submission failed: Invalid partition name", "partition"),
        ("Batch job submission failed: Invalid account or account/partition combination specified", "sacctmgr"),
        ("Batch job submission failed: Invalid qos specification", "cluster.slurm.qos"),
        ("QOSMaxSubmitJobPerUserLimit; Job violates accounting/QOS policy (job submit limit)", "the account's or QOS'"),
        ("AssocGrpGRESMinutes", "the account's or QOS'"),
        ("Disk quota exceeded", "the account's or QOS'"),
        ("Requested time limit is invalid (missing or exceeds some limit)", "time_min"),
        ("Requested node configuration is not available", "no nodes of that partition"),
        ("Invalid feature specification", "constraint"),
        ("Requested reservation is invalid", "reservation"),
        ("Invalid generic resource (gres) specification", "gpus_per_node"),
        ("something that nobody has seen", ""),
    ],
)
def test_the_fix_is_named(said: str, fix: str) -> None:
    assert fix in fix_of(said) and (fix or not fix_of(said))
