"""The examples run, come out exact, and would say so if they did not."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
PRINTS = {
    "accelerate_loop.py": "20 steps, stopped, 28 steps: exact",
    "bionemo_recipe.py": "1304 samples on 2 ranks, stopped, 1096 on 1: exact",
    "dropout_and_augmentation.py": "577 weights, stopped and resumed on other workers: exact",
    "fabric_loop.py": "1288 samples, stopped, 1712 samples: exact",
    "huggingface_datasets.py": "352 samples, stopped, 128 samples, and a stream: exact",
    "lightning_datamodule.py": "1320 samples, stopped, 1680 samples: exact",
    "megatron_bridge.py": "312 samples on 4 ranks, stopped, 152 on 2: exact",
    "megatron_gpt.py": "15 steps, killed in steps (8, 10): exact",
    "migration.py": "320 samples, before, after, before, after: exact",
    "plain_loop.py": "1320 samples, stopped, 1680 samples: exact",
    "torchtitan_loop.py": "100 steps, from 2 ranks to 1 after step 40: exact",
}
"""The last line of each example that is run."""
RESUMES = {
    "accelerate_loop.py": ("accelerate_loop.py", "    if resumes:\n        accelerator.load_state(folder)\n"),
    "bionemo_recipe.py": (
        "bionemo_recipe.py",
        "    if folder.exists():\n"
        "        for loader, config in zip(loaders, configs, strict=True):\n"
        "            load_dataloader(loader, folder, config)\n",
    ),
    "fabric_loop.py": (
        "fabric_loop.py",
        '    if checkpoint.exists():\n        fabric.load(checkpoint, {"loader": loader})\n',
    ),
    "dropout_and_augmentation.py": (
        "dropout_and_augmentation.py",
        "        reseed=True,  # random numbers follow the position\n",
    ),
    "huggingface_datasets.py": ("huggingface_datasets.py", "@resumable\n"),
    "lightning_datamodule.py": ("lightning_datamodule.py", "@resumable  # the one new line\n"),
    "megatron_bridge.py": ("megatron_bridge.py", "            begun_with=BEGUN_WITH,\n"),
    "megatron_gpt.py": ("megatron_gpt.py", '        loader.load_state_dict(saved["loader"])\n'),
    "migration.py": ("migration_after.py", '@resumable(sampler="data_sampler")\n'),
    "plain_loop.py": ("plain_loop.py", '        loader.load_state_dict(saved["loader"])\n'),
    "torchtitan_loop.py": (
        "torchtitan_loop.py",
        '    if (folder / "checkpoint").exists():\n        dcp.load(states, checkpoint_id=folder / "checkpoint")\n',
    ),
}
"""The file and line of each without which nothing is resumed, or not exactly."""
NEED_MEGATRON = ("megatron_bridge.py", "megatron_gpt.py", "migration.py")
PARTS = ("data_sampler.py", "migration_after.py", "migration_before.py")
"""What migration.py runs."""
OF_ADAPTERS = ("hf_trainer.py", "ray_train.py")
"""Run in tests/adapters/transformers/ and tests/adapters/ray/, where their frameworks are installed."""
UNDER_TORCHRUN = ("ddp_torchrun.py", "fsdp_dcp.py")
"""Run in tests/adapters/distributed/test_torchrun.py."""


def run(script: Path) -> tuple[int, str]:
    """The exit code of *script*, and the last line that it prints."""
    if script.name == "accelerate_loop.py" and find_spec("accelerate") is None:
        pytest.skip("accelerate is not installed")
    if script.name == "huggingface_datasets.py" and find_spec("datasets") is None:
        pytest.skip("datasets is not installed")
    if script.name in NEED_MEGATRON and find_spec("megatron") is None:
        pytest.skip("megatron-core is not installed")
    done = subprocess.run(
        [sys.executable, str(script)], cwd=script.parent, capture_output=True, text=True, check=False, timeout=300
    )
    return done.returncode, done.stdout.strip().rpartition("\n")[2] or done.stderr


def test_every_example_is_run() -> None:
    """The lists above name what lies in the folder."""
    assert sorted(path.name for path in EXAMPLES.glob("*.py")) == sorted(
        [*PRINTS, *PARTS, *OF_ADAPTERS, *UNDER_TORCHRUN]
    )


def test_the_readme_shows_the_examples_before_and_after() -> None:
    """What the README's difference takes away and adds are lines of the two files, in their order."""
    (difference,) = re.findall(r"^```diff\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    for file, sign in (("migration_before.py", "-"), ("migration_after.py", "+")):
        shown = "".join(
            line[1:] or "\n" for line in difference.splitlines(keepends=True) if line[0] in (sign, " ", "\n")
        )
        assert (EXAMPLES / file).read_text(encoding="utf-8").endswith(shown)


@pytest.mark.parametrize("name", PRINTS)
def test_an_example_stops_resumes_and_is_exact(name: str) -> None:
    """It stops in mid-epoch, goes on, and trains what the run trained that was not stopped."""
    assert run(EXAMPLES / name) == (0, PRINTS[name])


def test_a_checkpoint_is_whole_at_every_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain loop that is killed while it saves goes on from what it saved before, and nothing is lost or repeated."""
    train = runpy.run_path(str(EXAMPLES / "plain_loop.py"))["train"]
    save, saved = torch.save, list[object]()

    def killed_while_saving(state: Any, path: Any) -> None:
        saved.append(path)
        if len(saved) == 42:
            Path(path).write_bytes(b"half of it")
            raise KeyboardInterrupt
        save(state, path)

    whole, checkpoint = train(tmp_path / "whole.pt"), tmp_path / "killed.pt"
    monkeypatch.setattr(torch, "save", killed_while_saving)
    with pytest.raises(KeyboardInterrupt):
        train(checkpoint)
    monkeypatch.undo()
    behind = torch.load(checkpoint)["loader"]["consumed_samples"]
    assert whole[behind:] == train(checkpoint)


@pytest.mark.parametrize("name", RESUMES)
def test_an_example_without_its_resumption_fails(name: str, tmp_path: Path) -> None:
    """Without the line that it is about, what is compared differs and the exit code is 1: the comparison compares."""
    file, line = RESUMES[name]
    for path in EXAMPLES.glob("*.py"):
        shutil.copy(path, tmp_path)
    text = (EXAMPLES / file).read_text(encoding="utf-8")
    (tmp_path / file).write_text(text.replace(line, ""), encoding="utf-8")
    code, printed = run(tmp_path / name)
    assert (text.count(line), code, printed.rpartition(": ")[2]) == (1, 1, "NOT EXACT")
