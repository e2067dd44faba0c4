"""The families: one file, or one folder, each. `kinema.registry` has their names."""
