"""What is known of a store, as values: how old the last verified copies are, the history, the calendar."""
