"""Define the record of what a sweep ran on."""

from orchestrator.store.record_file import RecordSchema

ENVIRONMENT_FILE = "environment.json"  # in the folder of a sweep: what it ran on
ENVIRONMENT = RecordSchema[dict[str, str]](dict[str, str])
