"""The Ray cluster that a run uses: started here, or one that is running."""
