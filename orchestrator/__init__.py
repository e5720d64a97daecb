"""Search for the recipe that distils best.

A package imports only packages above it in this list:

core       Errors, signals, privacy, disk space and the context that a training runs in.
models     Networks and their weights.
config     What a user writes: schema, loader, search space, plan, resources.
store      What lies on disk: paths, records, locks, remote stores, checkpoints.
data       Data sets, their views, and batches.
teacher    Fit or load the teacher, and cache its outputs.
training   Train one trial, in torch alone.
cluster    Everything that Ray executes: worker groups, workers, dispatcher, jobs.
reporting  What people look at: terminal, HTML, figures, importance, statistics.
export     A student on its own: weights, settings, model card, predictions.
tracking   Runs, figures and models in MLflow.
sweep      The search: Optuna studies, Ray Tune schedulers, the driver of a sweep.
cli        One module for each command.
"""
