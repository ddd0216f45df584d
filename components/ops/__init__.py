"""What keeps a project's state safe and small: backup, restore, garbage collection, migration."""
