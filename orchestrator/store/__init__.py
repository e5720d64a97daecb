"""Read and write files: paths, records, locks, remote stores, checkpoints."""

__all__ = [
    "checkpoint_storage",
    "environment",
    "progress",
    "record_file",
    "records",
    "remote",
    "retained_weights",
    "run_lock",
    "staging",
    "store",
    "study_file",
]
