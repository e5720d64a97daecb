"""The Optuna study, the Tune run over it, and the records that it leaves."""
