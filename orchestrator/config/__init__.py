"""What a user writes: schema, loader, search space, plan, resources."""

__all__ = [
    "bin_packing",
    "capacity",
    "checkpoints",
    "conditional_space",
    "distinct",
    "extra_space",
    "fields",
    "influence_actors",
    "loader",
    "method_settings",
    "method_variants",
    "objectives",
    "path_settings",
    "plan",
    "resources",
    "schema",
    "search_space",
    "trial",
    "uris",
    "yielding",
]
