"""All that handlers knows of mod_python: its dispatch, the switch that puts ours in its place, its filters."""
