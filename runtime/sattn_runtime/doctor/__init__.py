"""What stands between this machine and a decision made on its GPU, and the command that mends each thing.

    diagnosis = examine("/", backend="tensorrt")
    for finding in diagnosis.findings:
        print(finding.level, finding.topic, finding.found, finding.mend)

Nothing is ever installed or changed here. Files are read through one `Tree`, so that a copied tree can be examined
on another machine; what only a running interpreter can tell comes from one `Probe`.
"""

from __future__ import annotations

from sattn_runtime.doctor.diagnosis import Diagnosis, examine
from sattn_runtime.doctor.findings import Finding

__all__ = ["Diagnosis", "Finding", "examine"]
