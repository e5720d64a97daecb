"""The loop, the checkpoint and the metrics of a trial: torch alone, the same with Ray and without."""
