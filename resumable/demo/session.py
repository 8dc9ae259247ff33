"""One training process: it trains through Lightning from the newest checkpoint on, logs what it trained, and may die anywhere.

What it leaves in its folder survives a SIGKILL at any moment:

    last.ckpt            the newest checkpoint, put in place by a rename
    session-<n>.jsonl    a line when training starts, then one for each optimizer step, each in one write
    audit/               what @resumable writes for the report
    result.json          the final loss and the digest of the weights, written by the session that reaches the end
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from resumable import resumable
from resumable.demo import model as models
from resumable.demo.history import AUDIT, CHECKPOINT, Job, session_log

__all__ = ["AtomicCheckpointIO", "StepLog", "train"]


class AtomicCheckpointIO(TorchCheckpointIO):
    """Saves beside the final name and renames: a reader finds the old checkpoint or the new one, whole."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write *checkpoint* to *path* in one step, as the file system's rename is one."""
        partial = f"{os.fspath(path)}.part"
        super().save_checkpoint(checkpoint, partial, storage_options)
        Path(partial).replace(path)


class StepLog(L.Callback):
    """Appends what each optimizer step trained, in one write: the kernel has it when the process is killed next.

    Lightning calls it before ModelCheckpoint, so a step that is in a checkpoint is in the log.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def _write(self, **entry: object) -> None:
        os.write(self._file, (json.dumps(entry) + "\n").encode())

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log how many steps the run has completed: those of the checkpoint that this session goes on from."""
        self._write(step=trainer.global_step)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: tuple[Tensor, Tensor],
        batch_idx: int,
    ) -> None:
        """Log the epoch and the indices of the step that has just been done."""
        self._write(step=trainer.global_step, epoch=trainer.current_epoch, indices=[int(index) for index in batch[0]])


def _digest(module: torch.nn.Module) -> str:
    """SHA-256 over every weight's name and bytes."""
    digest = hashlib.sha256()
    for name, weight in module.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.numpy().tobytes())
    return digest.hexdigest()


def _audited(cls: Any, folder: Path) -> Any:
    """*cls*; where it is decorated, with an audit in *folder*, under the same name: a checkpoint is that of a name."""
    if cls is not models.ResumableText:
        return cls
    audited: Any = resumable(reseed=True, audit=folder / AUDIT)(type(cls.__name__, (models.PlainText,), {}))
    audited.__qualname__ = cls.__qualname__
    return audited


def train(job: Job, /) -> None:
    """Train from the newest checkpoint in *job*'s folder, or from the start if there is none, to the end of the run."""
    # Workers are forked, as on every Python before 3.14: a fork server of their own would import torch again.
    multiprocessing.set_start_method("fork", force=True)
    torch.set_num_threads(1)  # several of these processes share the machine
    L.seed_everything(job.settings.seed, workers=True, verbose=False)
    size, folder = job.settings, job.folder
    datamodule = _audited(getattr(models, job.datamodule), folder)(size.samples, size.batch_size, size.num_workers)
    model = models.ByteModel()
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=size.epochs,
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=[AtomicCheckpointIO()],
        callbacks=[
            StepLog(session_log(folder, job.session)),
            ModelCheckpoint(
                folder,
                filename=CHECKPOINT.removesuffix(".ckpt"),
                every_n_train_steps=size.checkpoint_every,
                enable_version_counter=False,
            ),
        ],
    )
    checkpoint = folder / CHECKPOINT
    trainer.fit(model, datamodule=datamodule, ckpt_path=checkpoint if checkpoint.exists() else None)
    model.eval()  # without dropout, and on whole windows
    with torch.no_grad():
        loss = model.loss(datamodule.crops.windows).item()
    (folder / "result.json").write_text(json.dumps({"final_loss": loss, "weights_digest": _digest(model)}))
