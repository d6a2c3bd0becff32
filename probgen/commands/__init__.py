"""What each command does: one file a command, the wiring between data, models, inference and run directories."""
