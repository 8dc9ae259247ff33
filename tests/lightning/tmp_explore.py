import sys
from tests.lightning.harness import *
from tests.lightning.cuts import *
from tests.lightning.recording import *
from tests.lightning.test_loaders import *
from lightning.pytorch.callbacks import GradientAccumulationScheduler, EarlyStopping, Timer
from lightning.pytorch.tuner import Tuner
import pytest

@pytest.mark.parametrize("cut", [saved_at_epoch_end(0), saved_at_validation((1,1)), raised_in("on_train_batch_end",(0,5)), saved_after_step(6), raised_in("validation_step",(0,5)), raised_in("on_validation_end",(0,5)), raised_in("on_train_epoch_end",(0,5)), stopped((0,5)), stopped((1,2)), raised_in("training_step",(1,0))], ids=str)
def test_plateau(cut):
    check(Scenario(module=Plateau, trainer={"max_epochs": 4, "limit_val_batches": 1.0}), cut)

@pytest.mark.parametrize("cut", [saved_at_epoch_end(0), saved_at_validation((1,1)), raised_in("on_train_batch_end",(0,5)), raised_in("validation_step",(0,5)), raised_in("on_train_epoch_end",(0,5)), raised_in("on_train_epoch_start",(1,5))], ids=str)
def test_sched(cut):
    check(Scenario(module=Scheduled, trainer={"max_epochs": 4, "limit_val_batches": 1.0}), cut)

CACHE={}
def cached(s):
    if id(s) not in CACHE: CACHE[id(s)]=s.loader()
    return CACHE[id(s)]
class OneLoader(Numbers):
    def __init__(self, s): super().__init__(s); self.one=s.loader()
    def train_dataloader(self): return self.one
class ValIsTrain(Numbers):
    def val_dataloader(self): return [super().val_dataloader(), self.train_dataloader()]
class ValSame(OneLoader):
    def val_dataloader(self): return self.one
CUTS2=[(saved_after_step(3),),(saved_after_step(6),raised_in("training_step",(1,2))),(saved_at_epoch_end(0),),(saved_at_validation((1,3)),)]
@pytest.mark.parametrize("cuts", CUTS2, ids=str)
@pytest.mark.parametrize("data", [OneLoader, ValIsTrain, ValSame])
@pytest.mark.parametrize("opts", [{}, {"reload_dataloaders_every_n_epochs":1}], ids=str)
def test_odd(data, cuts, opts):
    s=Scenario(data=data, trainer={"limit_val_batches":1.0,"val_check_interval":2, "num_sanity_val_steps":2, **opts})
    assert uninterrupted(Scenario()).steps == uninterrupted(s).steps
    check(s,*cuts)

class Iter(Recording):
    def training_step(self, dataloader_iter):
        self.reached("training_step")
        batch, i, _ = next(dataloader_iter)
        self.history.lengths[self.trainer.current_epoch]=(self.trainer.num_training_batches,)
        self._window.append((i, ids_of(batch)))
        return self.loss(batch)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("cuts", CUTS2[:3]+[(raised_in("on_train_batch_end",(1,3)),)], ids=str)
def test_dataloader_iter(cuts):
    s=Scenario(module=Iter)
    a,b=uninterrupted(s), resumed(s,*cuts)
    assert repeated_and_lost(a,b)==([],[])
    assert a.weights==b.weights

@pytest.mark.parametrize("cuts", [(raised_in("training_step",(1,2)),),(raised_in("training_step",(1,3)),),(saved_at_epoch_end(0),),(saved_at_epoch_end(1),),(raised_in("training_step",(2,2)),),(saved_after_step(7),),(raised_in("on_train_batch_end",(0,5)),)], ids=str)
def test_gas(cuts):
    check(Scenario(callbacks=lambda: [GradientAccumulationScheduler({0:1,1:2,2:3})]), *cuts)

@pytest.mark.parametrize("cuts", CUTS2[:3]+[(raised_in("training_step",(1,1)),)], ids=str)
@pytest.mark.parametrize("acc", [1,2])
def test_early_epochs(cuts, acc):
    check(Scenario(module=EndsEpochsEarly, trainer={"accumulate_grad_batches":acc,"max_epochs":4}), *([c for c in cuts] if acc==1 else [raised_in("training_step",(1,1)), saved_at_epoch_end(1)]))

@pytest.mark.filterwarnings("ignore")
def test_lr_find(tmp_path):
    s=Scenario()
    class M(Recording):
        def __init__(self): super().__init__(); self.lr=0.05
    exp=uninterrupted(s)
    tr=trainer_of(s, ); dm=Numbers(s); m=M()
    tr=L.Trainer(default_root_dir=tmp_path, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, max_epochs=3, limit_val_batches=0)
    Tuner(tr).lr_find(m, datamodule=dm, num_training=8)
    m.history.steps.clear(); 
    tr.fit(m, dm)
    assert [exp.ids(e) for e in range(3)]==[run_of(tr).ids(e) for e in range(3)]

@pytest.mark.filterwarnings("ignore")
def test_scale_batch(tmp_path):
    @resumable
    class DM(L.LightningDataModule):
        def __init__(self): super().__init__(); self.batch_size=2
        def train_dataloader(self): return DataLoader(range(64), batch_size=self.batch_size, shuffle=True)
    m=Recording(); dm=DM()
    tr=L.Trainer(default_root_dir=tmp_path, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, max_epochs=2, limit_val_batches=0)
    Tuner(tr).scale_batch_size(m, datamodule=dm, max_trials=2, steps_per_trial=2)
    m.history.steps.clear()
    tr.fit(m, dm)
    r=run_of(tr)
    assert sorted(r.ids(0))==list(range(64)) and sorted(r.ids(1))==list(range(64))

@pytest.mark.parametrize("where", [(0,1),(0,5),(1,3)])
def test_time(where):
    class T(Timer):
        def time_elapsed(self, stage=None): return 10.0 if self.stop else 0.0
        stop=False
        def on_train_batch_end(self, trainer, *a, **k):
            self.stop=(trainer.current_epoch, trainer.fit_loop.batch_idx)==where
            super().on_train_batch_end(trainer,*a,**k)
    cut=Cut("timer", None, "on_train_batch_end", lambda t: True, lambda t: None, ends_with=None)
    s=Scenario(callbacks=lambda: [T(duration={"seconds":5}, interval="step", verbose=False)])
    assert uninterrupted(Scenario())==resumed(s,cut,then=Scenario())

@pytest.mark.parametrize("lims", [(4,6),(6,3),(0.5,1.0),(1.0,0.5)])
@pytest.mark.parametrize("cut", [saved_after_step(2), saved_at_epoch_end(0)], ids=str)
def test_limit_changes(lims, cut):
    a,b=lims
    s=Scenario(trainer={"limit_train_batches":a}); t=Scenario(trainer={"limit_train_batches":b})
    full=uninterrupted(Scenario()); r=resumed(s,cut,then=t)
    print([len(r.ids(e)) for e in r.epochs], r.current_epoch)
    for e in r.epochs: assert r.ids(e)==full.ids(e)[:len(r.ids(e))]
    assert r.ids(2)==uninterrupted(t).ids(2)

class SlowVal(Recording): pass
