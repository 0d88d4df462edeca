"""What recovery's fine-tune learns from: answers of its own, with the dense model's targets for these very answers."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_job import make_job, run_job, work_of
from tiny import find, make_tiny

from engine.models.ffn import project_logits
from engine.models.loading import load_model
from engine.models.packing import answer_states, pack
from engine.pruning.adapter import attach_adapter, make_optimizer, set_rate
from engine.stages.context import JobContext, load_dense
from engine.stages.lines import recovery_lines
from engine.stages.mask import read_dense
from engine.stages.tuning import _recovery_data


def test_targets_belong_to_the_answers_that_are_learned_from(llama: Path, tmp_path: Path) -> None:
    job = make_job(llama, tmp_path / "out", recover=True)
    run_job(llama, job.out, recover=True)
    bench = JobContext(job, work_of(job.out))
    list(load_dense(bench, "16bit"))
    reading = read_dense(bench)
    try:
        while True:
            next(reading)
    except StopIteration as ended:
        lesson = ended.value
    fine_tuning = _recovery_data(bench, lesson)
    examples = bench.encode(recovery_lines(bench)[1])
    assert fine_tuning.train == examples and len(examples) == 12  # 3 steps of 4
    assert fine_tuning.targets is not None and fine_tuning.validation is lesson.validation
    for example, target in zip(examples, fine_tuning.targets, strict=True):
        hidden = next(iter(answer_states(bench.model, pack([example], 768))))
        expected = project_logits(bench.model, hidden).log_softmax(-1)
        assert target.tokens.shape == (len(example.answer), 16)
        torch.testing.assert_close(target.log_probability, expected.gather(-1, target.tokens.long()), atol=1e-4, rtol=1e-4)
        assert torch.equal(target.tokens[:, 0].long(), expected.argmax(-1))


def test_without_such_answers_it_learns_from_the_train_lines(llama: Path, tmp_path: Path) -> None:
    run_job(llama, tmp_path / "out", recover=True, recovery_samples=0)
    bench = JobContext(make_job(llama, tmp_path / "out", recover=True, recovery_samples=0), work_of(tmp_path / "out"))
    list(load_dense(bench, "16bit"))
    lesson = object()
    assert _recovery_data(bench, lesson) is lesson and not list(bench.folder.glob("recovery_dense*"))  # type: ignore[arg-type]


@pytest.mark.parametrize("factor", [1.0, 0.05])
def test_a_step_of_the_fine_tune_changes_a_weight_by_the_rate_whatever_its_size(factor: float, tmp_path: Path) -> None:
    model = load_model(find(make_tiny(tmp_path, "llama", initializer_range=0.2 * factor)), torch.float32).cpu()
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    adapted = attach_adapter(model, 8, 0)
    optimizer = make_optimizer(adapted)
    set_rate(optimizer, 0.01)
    draw = torch.Generator().manual_seed(1)
    for group in optimizer.param_groups:
        for part in group["params"]:
            part.grad = torch.randn(part.shape, generator=draw)
    optimizer.step()
    merged = dict(adapted.merge_and_unload().named_parameters())
    changed = [name for name in before if not torch.equal(before[name], merged[name])]
    assert len(changed) == 14  # seven linear layers in each of two blocks
    for name in changed:
        share = (merged[name] - before[name]).square().mean().sqrt() / before[name].square().mean().sqrt()
        assert 0.005 < share < 0.02, (name, share)


def test_the_later_steps_read_the_cut_models_own_answers(llama: Path, tmp_path: Path) -> None:
    run_job(llama, tmp_path / "out", recover=True, recovery_own_from=0.4, recovery_steps=4, answer_tokens=8)
    work = work_of(tmp_path / "out")
    said = [tokens for line in (work / "recovery_own.jsonl").read_text().splitlines() for tokens in json.loads(line)["tokens"]]
    assert len(said) == 2  # two of four steps, half of four lines, each read twice
    targets = load_file(work / "recovery_own.safetensors")
    assert [len(targets[f"ids.{number}"]) for number in range(2)] == [len(one) for one in said]
