"""The Prefect flows, one a file, and the commands; nothing here imports torch."""
