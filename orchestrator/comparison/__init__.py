"""A comparison of methods: the same search for each, then the best settings of each over paired seeds."""
