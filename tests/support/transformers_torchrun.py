"""One process of a Trainer's run under torchrun: `FOLDER STOP ACCUMULATION`; STOP 0 goes on from the last checkpoint."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.support.transformers_runs import Run

if __name__ == "__main__":
    folder, stop, accumulation = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    run = Run(samples=19, accumulation=accumulation, dropout=0.5, options={"reseed": True})
    trained = run.session(folder, stop=stop or None, resumes=not stop)
    rank = trained.trainer.args.process_index
    Path(folder, f"{stop}-{rank}.json").write_text(json.dumps([trained.steps, trained.weights]))
