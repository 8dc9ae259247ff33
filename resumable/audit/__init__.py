"""The audit of a run: the proof, from what each rank wrote while it trained, that each sample was trained exactly once.

records    the files of `audit=`, as values; `resumable.saved.audit_log` writes them
runs       which sessions follow each other, and what of each counts
proof      the first sample that was repeated or never trained, by index and place
"""

from __future__ import annotations

from resumable.audit.proof import Fault, faults_of
from resumable.audit.records import Record, read_records
from resumable.audit.runs import AuditedRun, Kept, Session, runs_of

__all__ = ["AuditedRun", "Fault", "Kept", "Record", "Session", "faults_of", "read_records", "runs_of"]
