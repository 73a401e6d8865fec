"""Host memory, disk and volume of a run by hand, and every reason against a layout."""

from dataclasses import replace

import pytest

from safe_r1.errors import ConfigError, PlanError, ResourceError
from safe_r1.models.registry import VARIANTS, Layout
from safe_r1.train.architecture import ARCHITECTURES
from safe_r1.train.plan import make_plan, plan_variant
from safe_r1.train.plan_check import check_plan, find_problems
from safe_r1.train.storage import checkpoint_wait_s


def plan_of(name="r1-distill-llama-8b", num_gpus=8, *, run=None, **layout):
    return make_plan(ARCHITECTURES[name], Layout("h100-80", num_gpus, **layout), **(run or {}))


def test_host_memory_of_a_node_by_hand():
    host = plan_of().host
    assert host.states == 0
    assert host.workers == 8 * 6
    # A copy of the states for the checkpoint: weights and moments, 12 bytes a parameter.
    assert host.has_checkpoint_copy
    assert host.files == pytest.approx(12 * 8.030e9 / 2**30, rel=1e-3)
    assert host.total == pytest.approx(host.workers + host.files + 48)
    offloaded = plan_of(cpu_offload=True).host
    assert offloaded.total - host.total == pytest.approx(16 * 8.030e9 / 2**30, rel=1e-3)


def test_without_room_for_a_copy_training_waits_for_its_checkpoints():
    plan = plan_of("r1-distill-llama-70b", 8)
    # 788 GiB of states for 900 - 48 - 48 GiB, of which 80 % are given away.
    assert not plan.host.has_checkpoint_copy
    # The embedding, as stored and in fp32, on each of eight workers.
    assert plan.host.files == pytest.approx(8 * 128256 * 8192 * 8 / 2**30)
    assert plan.run_time.checkpoints == pytest.approx(6 * plan.checkpoint_gib)
    copied = plan_of("r1-distill-llama-70b", 16)
    assert copied.host.files == pytest.approx(copied.checkpoint_gib / 2)
    assert copied.run_time.checkpoints < plan.run_time.checkpoints / 4


def test_a_write_that_takes_longer_than_the_steps_between_is_waited_for():
    # 100 s of writing in each of 3, 40 s of training between them, 2 s of copying each.
    assert checkpoint_wait_s(100, 3, 1, 40, True) == pytest.approx(3 * 2 + 2 * 60 + 100)
    assert checkpoint_wait_s(100, 3, 1, 400, True) == pytest.approx(3 * 2 + 100)
    assert checkpoint_wait_s(100, 3, 1, 400, False) == 300


def test_one_worker_loads_the_whole_model_in_fp32():
    plan = plan_of("r1-distill-qwen-1.5b", 1, states="8bit")
    small = replace(plan, gpu=replace(plan.gpu, node_memory_gib=60))
    assert small.host.files == pytest.approx(4 * 1.777e9 / 2**30, rel=1e-3)


def test_volume_by_hand():
    plan = plan_of(run={"corpus_tokens": 2**26, "stored_bytes": 2.0})
    use = plan.volume
    assert use.model == use.export == pytest.approx(2 * 8.030e9 / 2**30, rel=1e-3)
    assert use.kept_checkpoints == pytest.approx(3 * 12 * 8.030e9 / 2**30, rel=1e-3)
    assert use.pending_checkpoint == use.kept_checkpoints / 3
    assert use.corpus == 1.0
    assert use.total == pytest.approx(use.model + use.corpus + use.written)
    assert use.written - use.kept == pytest.approx(use.pending_checkpoint)
    assert plan.node_disk_gib == pytest.approx(150 + use.model)
    # R1's own files are FP8, what is exported is bf16.
    r1 = plan_variant(VARIANTS["r1"]).volume
    assert r1.export == pytest.approx(2 * r1.model)


def test_every_reason_is_named_with_a_remedy():
    layout = {"micro_batch_size": 3, "cpu_offload": True, "tp_size": 3}
    plan = plan_of("r1-distill-llama-70b", 3, run={"seq_len": 2**20, "volume_limit_gib": 1000}, **layout)
    with pytest.raises(PlanError) as caught:
        check_plan(plan)
    first, *reasons = str(caught.value).splitlines()
    assert first == f"{len(reasons)} reasons why this layout does not work:"
    for start, remedy in (
        ("tp_size 3 does not divide the model's 64 attention heads", "choose a divisor"),
        ("tp_size 3 does not divide the model's 8 key-value heads", "choose a divisor"),
        ("pack.seq_len 1048576 is beyond", "set it to that at most"),
        ("global_batch_size 64 is not a multiple", "set it to 72"),
        ("does not fit:", "to make it fit, use"),
        ("host memory:", "parallel.cpu_offload=false or more nodes"),
        ("volume: 3,4", "use a larger one or a bucket"),
    ):
        (reason,) = [each for each in reasons if each.startswith(start)]
        assert remedy in reason
    assert caught.value.shown.splitlines()[1] == f"  {reasons[0]}"


def test_the_kind_of_a_single_reason_is_kept():
    with pytest.raises(ConfigError):
        check_plan(plan_of(run={"global_batch_size": 65}))
    with pytest.raises(ResourceError, match="volume: 390 GiB"):
        check_plan(plan_of(run={"volume_limit_gib": 100}))
    assert find_problems(plan_of(run={"volume_limit_gib": 1000})) == []


def test_what_a_node_has_decides_about_offloading():
    plan = plan_of("r1-distill-llama-70b", 8, cpu_offload=True)
    assert any("host memory" in str(problem) for problem in find_problems(plan))
    large = replace(plan, gpu=replace(plan.gpu, node_memory_gib=2000))
    assert not any("host memory" in str(problem) for problem in find_problems(large))


def test_smaller_moments_are_offered_where_they_suffice():
    plan = plan_of(run={"volume_limit_gib": 300})
    (problem,) = find_problems(plan)
    assert "or optimizer.states=bf16" in str(problem)


def test_the_run_takes_longer_than_its_steps():
    plan = plan_of()
    run = plan.run_time
    assert run.training == pytest.approx(plan.hours * 3600)
    assert plan.run_hours > plan.hours
    # 150 million tokens in steps of 64 × 8,192: 288, a checkpoint every 50 and at the end. Each is copied in
    # two seconds, and the last one is waited for.
    assert run.checkpoints == pytest.approx(plan.checkpoint_gib * (1 + 6 / 50))
    assert run.start == pytest.approx(180 + plan.volume.model)
