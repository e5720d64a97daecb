"""Define the record of the environment of a sweep."""

from orchestrator.store.record_file import RecordSchema

# in the folder of a sweep: commit, versions and machine of its last start
ENVIRONMENT_FILE = "environment.json"
ENVIRONMENT = RecordSchema[dict[str, str]](dict[str, str])
