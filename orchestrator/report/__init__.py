"""A sweep as one HTML page that needs nothing else: read from the store's files, written for a person to decide by."""
